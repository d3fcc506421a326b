package names

import (
	"errors"
	"strings"
	"testing"

	"github.com/berthd/berth/internal/errdefs"
)

func TestCheck(t *testing.T) {
	for name, valid := range map[string]bool{
		"web": true, "0": true, "a_b.c-D9": true, "": false, "-web": false, ".": false, "_a": false, "a b": false, "a/b": false,
		"é": false, strings.Repeat("a", 255): true, strings.Repeat("a", 256): false,
	} {
		if err := Check(name); (err == nil) != valid || err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: got %v, want valid %v", name, err, valid)
		}
	}
}

func TestRandomNamesAreValid(t *testing.T) {
	for attempt := range 50 {
		if name := Random(attempt); Check(name) != nil {
			t.Errorf("made up %q, which Check refuses", name)
		}
	}
}
