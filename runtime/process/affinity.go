package process

import (
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/numbers"
)

// everyProcessor is a mask of more processors than a kernel can have. The kernel leaves out those that are not there, and
// those that the cpuset does not have.
func everyProcessor() []uint64 {
	const most = 8192
	return slices.Repeat([]uint64{^uint64(0)}, most/64)
}

// ResetAffinity adds the end of the confinement to processors that the runtime was started with, as by the CPUAffinity of a
// service: the container has what its cgroup has. That it is not allowed is no reason not to start.
func ResetAffinity(p *launch.Program) {
	mask := everyProcessor()
	p.Call("reset", "the CPU affinity", unix.SYS_SCHED_SETAFFINITY, launch.Int(0), launch.Int(8*len(mask)), launch.PinSlice(p, mask)).Tolerate()
}

// FreeOfAffinity is ResetAffinity for a process that works off no program.
func FreeOfAffinity(pid int) {
	mask := everyProcessor()
	_, _, _ = unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, uintptr(pid), uintptr(8*len(mask)), uintptr(unsafe.Pointer(&mask[0])))
}

// AddAffinity adds the confinement to a list of processors such as 0-3,7, which may be empty. The list has been checked.
func AddAffinity(p *launch.Program, field, list string) {
	if list == "" {
		return
	}
	mask := numbers.Mask(list)
	p.Call("set", fmt.Sprintf("process.execCPUAffinity.%s to %q", field, list), unix.SYS_SCHED_SETAFFINITY,
		launch.Int(0), launch.Int(8*len(mask)), launch.PinSlice(p, mask))
}
