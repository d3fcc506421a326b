package images

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const (
	// progressInterval is how often one layer tells how far it is.
	progressInterval = 100 * time.Millisecond
	// maxQueued bounds the reports that a client has not taken yet. The phases of 500 layers fit.
	maxQueued = 4096
)

// progress hands reports to a client from a goroutine of its own: a client that does not read them must not hold up a
// transfer, for which other pulls may be waiting.
type progress struct {
	report func(*berthv1.Progress)
	done   chan struct{} // closed when all reports have been handed over

	mu     sync.Mutex
	change *sync.Cond
	ended  bool
	// queue are the reports to come. How far a layer is replaces what was said of it in the same phase.
	queue []*berthv1.Progress
	last  map[digest.Digest]lastReport
}

// lastReport is the newest report of a layer.
type lastReport struct {
	*berthv1.Progress
	at time.Time
}

func newProgress(report func(*berthv1.Progress)) *progress {
	p := &progress{report: report, done: make(chan struct{}), last: map[digest.Digest]lastReport{}}
	p.change = sync.NewCond(&p.mu)
	if report == nil {
		close(p.done)
		return p
	}
	go p.run()
	return p
}

func (p *progress) run() {
	defer close(p.done)
	for {
		p.mu.Lock()
		for len(p.queue) == 0 && !p.ended {
			p.change.Wait()
		}
		if len(p.queue) == 0 {
			p.mu.Unlock()
			return
		}
		next := p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		p.report(next)
	}
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
	p.add(layer.Digest, report, time.Time{})
}

// bytes reports how far a phase is, if the last report is some time ago.
func (p *progress) bytes(layer ocispec.Descriptor, phase berthv1.Phase, current int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.last[layer.Digest].at) < progressInterval {
		return
	}
	p.add(layer.Digest, &berthv1.Progress{Digest: layer.Digest.String(), Phase: phase, Current: current, Total: layer.Size}, now)
}

func (p *progress) add(layer digest.Digest, report *berthv1.Progress, at time.Time) {
	if p.report == nil || p.ended {
		return
	}
	before := p.last[layer].Progress
	p.last[layer] = lastReport{report, at}
	for i := len(p.queue) - 1; i >= 0 && before.GetPhase() == report.GetPhase(); i-- {
		if p.queue[i] == before {
			p.queue[i] = report
			return
		}
	}
	if len(p.queue) == maxQueued {
		p.queue = p.queue[1:]
	}
	p.queue = append(p.queue, report)
	p.change.Signal()
}

// stop returns when the client has all reports, or its stream has ended. There are none afterwards.
func (p *progress) stop() {
	p.mu.Lock()
	p.ended = true
	p.change.Signal()
	p.mu.Unlock()
	<-p.done
}
