// Package progress shows how a pull or a push goes on: a bar for each layer on a terminal, a line for each step
// elsewhere.
package progress

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/berthd/berth/cli/format"
	"github.com/berthd/berth/cli/terminal"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const (
	barWidth = 30
	// redraw bounds how often a terminal is redrawn; an eye does not see more.
	redraw = 60 * time.Millisecond
)

// Display shows progress on a stream. The zero value shows nothing.
type Display struct {
	out           io.Writer
	width, height int // 0: not a terminal
	layers        []*layer
	drawn         int // lines that are on the screen
	drawnAt       time.Time
}

type layer struct {
	digest string
	last   *berthv1.Progress
}

// New returns a display on out: with bars if it is a terminal.
func New(out io.Writer) *Display {
	width, height, _ := terminal.Size(out)
	return &Display{out: out, width: width, height: height}
}

// Update shows one message.
func (d *Display) Update(message *berthv1.Progress) {
	if d.out == nil {
		return
	}
	known := d.find(message.GetDigest())
	changed := known.last.GetPhase() != message.GetPhase() || known.last.GetMessage() != message.GetMessage()
	known.last = message
	if d.width > 0 {
		// Phases are drawn at once, so that the last picture is the true one.
		if changed || time.Since(d.drawnAt) >= redraw {
			d.draw()
		}
		return
	}
	if changed {
		_, _ = fmt.Fprintln(d.out, plain(message))
	}
}

// Close draws the last state, which stays on the screen.
func (d *Display) Close() {
	if d.out != nil && d.width > 0 && len(d.layers) > 0 {
		d.draw()
	}
}

func (d *Display) find(digest string) *layer {
	for _, known := range d.layers {
		if known.digest == digest {
			return known
		}
	}
	added := &layer{digest: digest}
	d.layers = append(d.layers, added)
	return added
}

// draw moves the cursor up over what was drawn before and draws each layer on a line of its own.
func (d *Display) draw() {
	d.drawnAt = time.Now()
	shown := d.visible()
	var screen strings.Builder
	if d.drawn > 0 {
		fmt.Fprintf(&screen, "\x1b[%dA", d.drawn)
	}
	for _, known := range shown {
		fmt.Fprintf(&screen, "\r%s\x1b[K\n", format.Ellipsis(bar(known.last), d.width-1))
	}
	screen.WriteString("\x1b[J")
	d.drawn = len(shown)
	_, _ = io.WriteString(d.out, screen.String())
}

// visible returns the layers that fit on the screen. A cursor can't move above its first line, so with too many layers
// those that are done give way.
func (d *Display) visible() []*layer {
	room := max(d.height-1, 1)
	if len(d.layers) <= room {
		return d.layers
	}
	var shown []*layer
	excess := len(d.layers) - room
	for _, known := range d.layers {
		if excess > 0 && finished(known.last.GetPhase()) {
			excess--
			continue
		}
		shown = append(shown, known)
	}
	return shown[:min(len(shown), room)]
}

func finished(phase berthv1.Phase) bool {
	return phase == berthv1.Phase_PHASE_DONE || phase == berthv1.Phase_PHASE_EXISTS
}

// plain is one step as a line of text.
func plain(p *berthv1.Progress) string {
	text := name(p) + phase(p.GetPhase())
	if p.GetTotal() > 0 && (p.GetPhase() == berthv1.Phase_PHASE_DOWNLOADING || p.GetPhase() == berthv1.Phase_PHASE_UPLOADING) {
		text += " (" + format.Size(p.GetTotal()) + ")"
	}
	if p.GetMessage() != "" {
		text += ": " + p.GetMessage()
	}
	return text
}

// bar is the state of a layer: "0123456789ab: Downloading [=====>     ] 1.2MB/3.4MB".
func bar(p *berthv1.Progress) string {
	text := name(p) + phase(p.GetPhase())
	moving := p.GetPhase() == berthv1.Phase_PHASE_DOWNLOADING || p.GetPhase() == berthv1.Phase_PHASE_UPLOADING ||
		p.GetPhase() == berthv1.Phase_PHASE_EXTRACTING || p.GetPhase() == berthv1.Phase_PHASE_VERIFYING
	switch current, total := p.GetCurrent(), p.GetTotal(); {
	case moving && total > 0:
		filled := int(int64(barWidth) * min(current, total) / total)
		arrow := strings.Repeat("=", filled)
		if filled < barWidth {
			arrow += ">"
		}
		text = fmt.Sprintf("%-26s [%-*s] %s/%s", text, barWidth, arrow, format.Size(current), format.Size(total))
	case moving && current > 0:
		text = fmt.Sprintf("%-26s %s", text, format.Size(current))
	}
	if p.GetMessage() != "" {
		text += "  " + p.GetMessage()
	}
	return text
}

func name(p *berthv1.Progress) string {
	if p.GetDigest() == "" {
		return ""
	}
	return format.ID(p.GetDigest(), false) + ": "
}

func phase(phase berthv1.Phase) string {
	switch phase {
	case berthv1.Phase_PHASE_WAITING:
		return "Waiting"
	case berthv1.Phase_PHASE_DOWNLOADING:
		return "Downloading"
	case berthv1.Phase_PHASE_VERIFYING:
		return "Verifying"
	case berthv1.Phase_PHASE_DOWNLOADED:
		return "Downloaded"
	case berthv1.Phase_PHASE_EXTRACTING:
		return "Extracting"
	case berthv1.Phase_PHASE_DONE:
		return "Done"
	case berthv1.Phase_PHASE_EXISTS:
		return "Already here"
	case berthv1.Phase_PHASE_RETRYING:
		return "Retrying"
	case berthv1.Phase_PHASE_UPLOADING:
		return "Uploading"
	}
	return "Working"
}
