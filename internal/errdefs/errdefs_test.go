package errdefs

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestAsKeepsTextAndCause(t *testing.T) {
	err := fmt.Errorf("cannot start %q: %w", "web", As(ErrNotFound, fs.ErrNotExist))
	if !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v has lost its class or its cause", err)
	}
	if want := `cannot start "web": file does not exist`; err.Error() != want {
		t.Errorf("text %q, want %q", err, want)
	}
	if As(ErrNotFound, nil) != nil {
		t.Error("As of nil is not nil")
	}
}
