package process

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// AddAffinity adds the confinement to a list of processors such as 0-3,7, which may be empty. The list has been checked.
func AddAffinity(p *launch.Program, field, list string) {
	if list == "" {
		return
	}
	mask := parseMask(list)
	p.Call("set", fmt.Sprintf("process.execCPUAffinity.%s to %q", field, list), unix.SYS_SCHED_SETAFFINITY,
		launch.Int(0), launch.Int(8*len(mask)), launch.PinSlice(p, mask))
}

// parseMask makes a bit mask of a list of numbers and ranges. Processors beyond what a kernel can have are left out.
func parseMask(list string) []uint64 {
	const most = 8192
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
