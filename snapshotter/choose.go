package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/snapshotter/overlay"
)

// chooseLayout returns the layout for the snapshots in dir. The file "layout" keeps the choice, because the trees of
// one layout mean nothing to the other.
func chooseLayout(dir, wanted string) (string, error) {
	if wanted != "" && wanted != Overlay && wanted != Native {
		return "", unknownLayout(wanted)
	}
	path := filepath.Join(dir, "layout")
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if chosen := strings.TrimSpace(string(content)); chosen != "" {
		if chosen != Overlay && chosen != Native {
			return "", fmt.Errorf("the file %q is damaged: write %s or %s into it, as the snapshots beside it are made", path, Overlay, Native)
		}
		if wanted != "" && wanted != chosen {
			return "", errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("it holds snapshots of layout %q, not %q", chosen, wanted))
		}
		return chosen, nil
	}
	chosen := wanted
	if chosen == "" || chosen == Overlay {
		probe := overlay.Probe(filepath.Join(dir, "snapshots")) // where Cleanup finds what a crash leaves
		switch {
		case probe == nil:
			chosen = Overlay
		case wanted == Overlay:
			return "", errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("overlayfs does not work here: %w", probe))
		default:
			chosen = Native
		}
	}
	return chosen, atomicfile.Write(path, []byte(chosen+"\n"), 0o600)
}
