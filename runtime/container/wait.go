package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/launch"
)

// wait opens the socket at which the process waits for start, and returns how it does so:
//
//	process                           start
//	───────                           ─────
//	accept ◄───────────────────────── connect
//	read   ◄───────────────────────── one byte
//	execve ── failed: index, errno ─► an error
//	       ── end of file ──────────► started
//
// The descriptors close with the execve. Nothing of this is reachable from inside the container.
func (s *setup) wait() (func(l *launch.Last), error) {
	if s.options.Attached {
		return (*launch.Last).ReportAndWait, nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot create the start socket: %w", err)
	}
	s.listener = fd
	name, close, err := shortName(filepath.Join(s.container.dir, startSocket))
	if err != nil {
		return nil, err
	}
	defer close()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: name}), unix.Listen(fd, 1)); err != nil {
		return nil, fmt.Errorf("cannot create the start socket: %w", err)
	}
	return func(l *launch.Last) { l.ReportAndAccept(fd) }, nil
}

// shortName names a socket through its directory's descriptor, as the path of one must not be longer than 107 bytes.
func shortName(path string) (name string, done func(), err error) {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("cannot open the container's directory: %w", err)
	}
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(path), func() { _ = unix.Close(dir) }, nil
}

// release lets the waiting process go on, and waits until it has executed its program.
func (c *Container) release(spec *specs.Spec) error {
	socket := filepath.Join(c.dir, startSocket)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot start container %q: %w", c.ID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	name, done, err := shortName(socket)
	if err != nil {
		return err
	}
	defer done()
	if err := launch.Limit(fd); err != nil {
		return fmt.Errorf("cannot start container %q: %w", c.ID, err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		return fmt.Errorf("cannot start container %q: its process does not wait: %w", c.ID, err)
	}
	if err := os.Remove(socket); err != nil {
		return fmt.Errorf("cannot start container %q: %w", c.ID, err)
	}
	if notifies(spec) {
		process := startChannel(fd)
		if err := process.Release(); err != nil {
			return err
		}
		if err := c.handOver(spec, c.Pid, specs.StateCreated, process); err != nil {
			return err
		}
		return launch.Outcome(fd, c.frozenAtStart, c.executionError)
	}
	return launch.Await(fd, c.frozenAtStart, c.executionError)
}

// frozenAtStart gives up on a process that has been released, and can't go on before its cgroup does.
func (c *Container) frozenAtStart() error {
	if c.Status() != Paused {
		return nil
	}
	return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot start container %q before its cgroup, which has been frozen meanwhile, goes on", c.ID))
}
