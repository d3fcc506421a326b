package cgroup

import (
	"bytes"
	"errors"
	"testing"

	"github.com/berthd/berth/internal/errdefs"
)

func TestUnitNames(t *testing.T) {
	for path, want := range map[string]unitName{
		"":                              {"system.slice", "berth-id.scope"},
		"machine.slice:libpod:abc":      {"machine.slice", "libpod-abc.scope"},
		":docker:abc":                   {"system.slice", "docker-abc.scope"},
		"kubepods-besteffort.slice::ab": {"kubepods-besteffort.slice", "ab.scope"},
	} {
		if got, err := parseUnit(Config{ID: "id", Path: path}); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", path, got, err, want)
		}
	}
	for _, path := range []string{"/a/b", "a:b", "a.slice:b:c/d", "a.slice:b:c.slice", "a.slice:b c:d"} {
		if _, err := parseUnit(Config{ID: "id", Path: path}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: error %v", path, err)
		}
	}
}

func TestSlicePaths(t *testing.T) {
	for slice, want := range map[string]string{
		"system.slice": "/system.slice", "-.slice": "", "a-b-c.slice": "/a.slice/a-b.slice/a-b-c.slice",
	} {
		if got, err := slicePath(slice); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", slice, got, err, want)
		}
	}
	for _, slice := range []string{"", "a", ".slice", "-a.slice", "a-.slice", "a--b.slice"} {
		if got, err := slicePath(slice); err == nil {
			t.Errorf("%q: %q", slice, got)
		}
	}
}

func TestBitmap(t *testing.T) {
	for list, want := range map[string][]byte{"0": {1}, "0-2,8": {7, 1}, "15": {0, 0x80}} {
		if got := bitmap(list); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", list, got, want)
		}
	}
}
