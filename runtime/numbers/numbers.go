// Package numbers understands lists of processors and memory nodes, such as 0-3,7, which package config has checked.
package numbers

import (
	"strconv"
	"strings"
)

// most is more than a kernel can have of either.
const most = 8192

// Mask makes a bit mask of a list, the lowest number in the lowest bit. Numbers of 8192 and more are left out.
func Mask(list string) []uint64 {
	mask := make([]uint64, 1)
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			high = low
		}
		from, _ := strconv.Atoi(low)
		to, _ := strconv.Atoi(high)
		for n := from; n <= to && n < most; n++ {
			for len(mask) <= n/64 {
				mask = append(mask, 0)
			}
			mask[n/64] |= 1 << (n % 64)
		}
	}
	return mask
}
