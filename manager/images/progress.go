package images

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// progressInterval is how often one layer tells how far it is.
const progressInterval = 100 * time.Millisecond

// progress hands reports to a client, one at a time and not more than it can use.
type progress struct {
	mu     sync.Mutex
	report func(*berthv1.Progress)
	last   map[digest.Digest]time.Time
}

func newProgress(report func(*berthv1.Progress)) *progress {
	return &progress{report: report, last: map[digest.Digest]time.Time{}}
}

// phase reports that something else begins.
func (p *progress) phase(layer ocispec.Descriptor, phase berthv1.Phase, message string) {
	report := &berthv1.Progress{Digest: layer.Digest.String(), Phase: phase, Total: layer.Size, Message: message}
	switch phase {
	case berthv1.Phase_PHASE_VERIFYING, berthv1.Phase_PHASE_DOWNLOADED, berthv1.Phase_PHASE_DONE, berthv1.Phase_PHASE_EXISTS:
		report.Current = layer.Size
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.send(report)
}

// bytes reports how far a phase is, if the last report is some time ago.
func (p *progress) bytes(layer ocispec.Descriptor, phase berthv1.Phase, current int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.last[layer.Digest]) < progressInterval {
		return
	}
	p.send(&berthv1.Progress{Digest: layer.Digest.String(), Phase: phase, Current: current, Total: layer.Size})
	p.last[layer.Digest] = time.Now()
}

func (p *progress) send(message *berthv1.Progress) {
	if p.report != nil {
		p.report(message)
	}
}

// stop ends all reports: the client's stream is about to end.
func (p *progress) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report = nil
}
