package images

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// A client that has stopped reading keeps nobody waiting, and costs a bounded amount of memory.
func TestProgressDoesNotWaitForItsReader(t *testing.T) {
	read := make(chan struct{})
	var got []*berthv1.Progress
	p := newProgress(func(report *berthv1.Progress) {
		<-read
		got = append(got, report)
	})
	layer := ocispec.Descriptor{Digest: digest.FromString("layer"), Size: 1000}
	other := ocispec.Descriptor{Digest: digest.FromString("other"), Size: 1000}
	p.phase(layer, berthv1.Phase_PHASE_WAITING, "")
	for i := range 3 * maxQueued {
		p.phase(layer, berthv1.Phase_PHASE_RETRYING, strings.Repeat("x", i%7))
		p.phase(other, berthv1.Phase_PHASE_DOWNLOADING, "")
	}
	p.phase(layer, berthv1.Phase_PHASE_DONE, "")
	if len(p.queue) > maxQueued {
		t.Errorf("%d reports wait", len(p.queue))
	}
	close(read)
	p.stop()
	var phases []berthv1.Phase
	for _, report := range got {
		if report.GetDigest() == layer.Digest.String() {
			phases = append(phases, report.GetPhase())
		}
	}
	want := []berthv1.Phase{berthv1.Phase_PHASE_WAITING, berthv1.Phase_PHASE_RETRYING, berthv1.Phase_PHASE_DONE}
	if phases = slices.Compact(phases); !slices.Equal(phases, want) {
		t.Errorf("told were the phases %v, want %v", phases, want)
	}
	p.phase(layer, berthv1.Phase_PHASE_WAITING, "")
	if last := got[len(got)-1]; last.GetPhase() != berthv1.Phase_PHASE_DONE {
		t.Errorf("the last report is %v", last)
	}
}

func TestProgressWithoutAReader(t *testing.T) {
	p := newProgress(nil)
	p.phase(ocispec.Descriptor{}, berthv1.Phase_PHASE_DONE, "")
	p.stop()
}
