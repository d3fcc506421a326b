package systemd

import (
	"errors"
	"reflect"
	"testing"

	"github.com/berthd/berth/internal/errdefs"
)

func TestAnnotations(t *testing.T) {
	for annotation, want := range map[[2]string]Property{
		{"CollectMode", "'inactive-or-failed'"}: {"CollectMode", "inactive-or-failed"},
		{"Description", `"it\"s"`}:              {"Description", `it"s`},
		{"SendSIGHUP", "true"}:                  {"SendSIGHUP", true},
		{"MemoryHigh", "uint64 123"}:            {"MemoryHigh", uint64(123)},
		{"KillSignal", "9"}:                     {"KillSignal", int32(9)},
		{"TimeoutStopSec", "1.5"}:               {"TimeoutStopUSec", uint64(1500000)},
		{"TimeoutStopUSec", "uint64 5"}:         {"TimeoutStopUSec", uint64(5)},
		{"CPUQuotaPerSec", "uint64 1"}:          {"CPUQuotaPerUSec", uint64(1000000)},
		{"After", "['a.service', 'b.service']"}: {"After", []string{"a.service", "b.service"}},
		{"Wants", "[]"}:                         {"Wants", []string{}},
	} {
		got, err := ParseAnnotations(map[string]string{prefix + annotation[0]: annotation[1], "other": "1"})
		if err != nil || !reflect.DeepEqual(got, []Property{want}) {
			t.Errorf("%q: %v, %v, want %v", annotation, got, err, want)
		}
	}
	for _, annotation := range [][2]string{
		{"X", "1"},
		{"Not-a-name", "1"},
		{"Description", "'open"},
		{"Description", "'a' 'b'"},
		{"After", "['a'"},
		{"After", "[1]"},
		{"KillSignal", "nine"},
		{"KillSignal", "double 9"},
		{"KillSignal", ""},
		{"TimeoutStopSec", "'1'"},
		{"MemoryHigh", "uint64 -1"},
	} {
		if got, err := ParseAnnotations(map[string]string{prefix + annotation[0]: annotation[1]}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v, %v", annotation, got, err)
		}
	}
}
