// Package numbers understands lists of processors and memory nodes, such as 0-3,7, which package config has checked.
package numbers

import (
	"strconv"
	"strings"
)

// most is more than a kernel can have of either.
const most = 8192

// Mask makes a bit mask of a list, the lowest number in the lowest bit. Numbers of 8192 and more are left out. A range may
// have a stride: 0-7:2/4 is the first two of each four from 0 to 7.
func Mask(list string) []uint64 {
	mask := make([]uint64, 1)
	for part := range strings.SplitSeq(list, ",") {
		part, stride, _ := strings.Cut(strings.TrimSpace(part), ":")
		used, group := 1, 1
		if stride != "" {
			first, second, _ := strings.Cut(stride, "/")
			used, _ = strconv.Atoi(first)
			group, _ = strconv.Atoi(second)
			group = max(group, 1)
		}
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		from, _ := strconv.Atoi(low)
		to, _ := strconv.Atoi(high)
		for n := from; n <= to && n < most; n++ {
			if (n-from)%group >= used {
				continue
			}
			for len(mask) <= n/64 {
				mask = append(mask, 0)
			}
			mask[n/64] |= 1 << (n % 64)
		}
	}
	return mask
}
