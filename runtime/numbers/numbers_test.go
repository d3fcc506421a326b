package numbers

import (
	"slices"
	"testing"
)

func TestMask(t *testing.T) {
	for list, want := range map[string][]uint64{
		"0": {1}, "1,3": {0b1010}, "0-2,5": {0b100111}, "64": {0, 1}, "63-65": {1 << 63, 3}, "7-6": {0}, "0, 2": {0b101}, "0-7:2/4": {0b110011}, "1-4:1/2,7": {0b10001010},
	} {
		if got := Mask(list); !slices.Equal(got, want) {
			t.Errorf("%s: %b, want %b", list, got, want)
		}
	}
}
