package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/cgroup"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/terminal"
)

// shared tells whether the process can be born in this one's memory: nothing has to be done for it before it executes
// something.
func (c *Created) shared() bool { return c.plan.Simple() && !pauses(c.Spec) }

// mayBeginEarly tells whether it can be born while its cgroup is being made, and whether that pays. What criu restores
// has no plan. Who enters somebody's mount namespace may not find the host's cgroups there.
func (c *Created) mayBeginEarly() bool {
	return c.plan != nil && c.shared() && len(c.plan.Birth().Within) == 0 && runtime.GOMAXPROCS(0) > 1 &&
		c.plan.Joined&(unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP) == 0
}

// early is a process that mounts what the container has while its cgroup is being made.
type early struct {
	*launch.Early
	*setup
}

// begin forks the process and lets it work off its program up to where it needs the rest of its cgroup.
func (c *Created) begin(o CreateOptions, unfinished cgroup.Cgroup) (undo func(), err error) {
	birth := c.plan.Birth()
	birth.CgroupFD, birth.Shared, birth.Watch = unfinished.DirFD(), true, watch(unfinished)
	hide()
	begun, err := launch.Begin(birth)
	if err != nil {
		return nil, err
	}
	c.early = &early{begun, c.newSetup(o, unfinished)}
	c.early.later = true
	program, err := c.early.program()
	if err == nil {
		err = begun.Start(program)
	}
	if err != nil {
		c.abandon()
	}
	return c.abandon, err
}

func (c *Created) abandon() {
	if c.early != nil {
		c.early.Abandon()
		c.early.close()
		c.early = nil
	}
}

// finish lets the process that was begun early join its cgroup, and waits until it has done its work.
func (c *Created) finish() error {
	if err := c.early.Release(); err != nil {
		return err
	}
	if pid := c.early.Pid(); pid != 0 {
		_ = c.identify(pid) // or else settle does, and knows what to say
	}
	var err error
	if c.process, err = c.early.Finish(); err != nil {
		return err
	}
	c.early.close()
	c.early = nil
	return nil
}

// fork makes the process, which has not begun early, work off its program.
func (c *Created) fork(program *launch.Program, group cgroup.Cgroup) (*launch.Process, error) {
	birth := c.plan.Birth()
	birth.Watch = watch(group)
	if group != nil {
		birth.CgroupFD = group.DirFD()
	}
	birth.Shared = c.shared() && !cgroup.Distant(group)
	hide()
	return launch.Fork(program, birth)
}

// watch returns what gives up on a process that does not go on because its cgroup has been frozen: by a hook, or with
// one above it.
func watch(group cgroup.Cgroup) func() error {
	if group == nil {
		return nil
	}
	return func() error {
		if frozen, err := group.Frozen(); err != nil || !frozen {
			return nil
		}
		return errdefs.As(errdefs.ErrFailedPrecondition, errors.New("cannot start the container's process: its cgroup has been frozen meanwhile"))
	}
}

// hide keeps the container's processes from looking at the child while it is still the runtime: they would need
// CAP_SYS_PTRACE in the host's user namespace for it. Fork hands the setting on.
func hide() {
	if os.Geteuid() == 0 { // anybody else would lose access to the child's files in /proc
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
}

// SocketOf returns where a socket is that somebody has named: a relative path starts at the bundle, in which runc works,
// or else where the caller is. One that begins with @ is in no directory.
func SocketOf(bundle, path string) string {
	if path == "" || path[0] == '@' || filepath.IsAbs(path) {
		return path
	}
	inside := filepath.Join(bundle, path)
	if unix.Access(inside, unix.F_OK) != nil {
		return path
	}
	return inside
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
	if err := terminal.ConnectSoon(fd, path); err != nil {
		return fmt.Errorf("cannot connect to pidfd socket %q: %w", path, err)
	}
	if err := unix.Sendmsg(fd, []byte("pidfd"), unix.UnixRights(pidfd), nil, 0); err != nil {
		return fmt.Errorf("cannot send the pidfd to %q: %w", path, err)
	}
	return nil
}
