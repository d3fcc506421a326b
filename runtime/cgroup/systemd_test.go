package cgroup

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/systemd"
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

func TestSettingsInSystemdsWords(t *testing.T) {
	for s, want := range map[setting]systemd.Property{
		{file: "cpu.idle", value: "1"}:             {Name: "CPUWeight", Value: uint64(0)},
		{file: "cpu.idle", value: "0"}:             {Name: "CPUWeight", Value: uint64(100)},
		{file: "io.weight", value: "default 2930"}: {Name: "IOWeight", Value: uint64(2930)},
		{file: "io.bfq.weight", value: "300"}:      {Name: "IOWeight", Value: uint64(2300)}, // of which it makes 300
		{file: "io.bfq.weight", value: "70"}:       {Name: "IOWeight", Value: uint64(70)},
		{file: "memory.swap.max", value: "max"}:    {Name: "MemorySwapMax", Value: uint64(math.MaxUint64)},
	} {
		if got := settingProperties([]setting{s}); len(got) != 1 || got[0] != want {
			t.Errorf("%+v: %+v, want %+v", s, got, want)
		}
	}
	for _, s := range []setting{{file: "io.weight", value: "8:0 100"}, {file: "io.bfq.weight", value: "8:0 100"}, {file: "memory.oom.group", value: "1"}} {
		if got := settingProperties([]setting{s}); len(got) != 0 {
			t.Errorf("%+v: %+v", s, got)
		}
	}
}
