package process

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/numbers"
)

// AddAffinity adds the confinement to a list of processors such as 0-3,7, which may be empty. The list has been checked.
func AddAffinity(p *launch.Program, field, list string) {
	if list == "" {
		return
	}
	mask := numbers.Mask(list)
	p.Call("set", fmt.Sprintf("process.execCPUAffinity.%s to %q", field, list), unix.SYS_SCHED_SETAFFINITY,
		launch.Int(0), launch.Int(8*len(mask)), launch.PinSlice(p, mask))
}
