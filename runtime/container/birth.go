package container

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/atomicfile"
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

// Announcement says whom to tell where the process is.
type Announcement struct {
	PidFile     string
	PidfdSocket string // gets a descriptor of it
}

func (a Announcement) announce(process *launch.Process) error {
	if a.PidfdSocket != "" {
		if err := sendPidfd(process.PidFD, a.PidfdSocket); err != nil {
			return err
		}
	}
	if a.PidFile != "" {
		if err := atomicfile.WriteVolatile(a.PidFile, []byte(strconv.Itoa(process.Pid)), 0o644); err != nil {
			return fmt.Errorf("cannot write the pid file: %w", err)
		}
	}
	return nil
}

func sendPidfd(pidfd int, path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot send the pidfd: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return fmt.Errorf("cannot connect to pidfd socket %q: %w", path, err)
	}
	if err := unix.Sendmsg(fd, []byte("pidfd"), unix.UnixRights(pidfd), nil, 0); err != nil {
		return fmt.Errorf("cannot send the pidfd to %q: %w", path, err)
	}
	return nil
}
