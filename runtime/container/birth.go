package container

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/cgroup"
	"github.com/berthd/berth/runtime/launch"
)

// shared tells whether the process can be born in this one's memory: nothing has to be done for it before it executes
// something.
func (c *Created) shared() bool { return c.plan.Simple() && !pauses(c.Spec) }

// mayBeginEarly tells whether it can be born before its program is written, and whether that pays. What criu restores
// has no plan.
func (c *Created) mayBeginEarly() bool {
	return c.plan != nil && c.shared() && len(c.plan.Birth().Within) == 0 && runtime.NumCPU() > 1
}

// begin forks the process early, in the cgroup of the descriptor.
func (c *Created) begin(cgroupFD int) (undo func(), err error) {
	birth := c.plan.Birth()
	birth.CgroupFD, birth.Shared = cgroupFD, true
	hide()
	c.early, err = launch.Begin(birth)
	return c.abandon, err
}

func (c *Created) abandon() {
	if c.early != nil {
		c.early.Abandon()
		c.early = nil
	}
}

// fork makes the process work off its program.
func (c *Created) fork(program *launch.Program, group cgroup.Cgroup) (*launch.Process, error) {
	if c.early != nil {
		process, err := c.early.Run(program)
		if err == nil {
			c.early = nil
		}
		return process, err
	}
	birth := c.plan.Birth()
	if group != nil {
		birth.CgroupFD = group.DirFD()
	}
	birth.Shared = c.shared() && !cgroup.Distant(group)
	hide()
	return launch.Fork(program, birth)
}

// hide keeps the container's processes from looking at the child while it is still the runtime: they would need
// CAP_SYS_PTRACE in the host's user namespace for it. Fork hands the setting on.
func hide() {
	if os.Geteuid() == 0 { // anybody else would lose access to the child's files in /proc
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
}
