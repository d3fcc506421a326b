package container

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// A service manager believes the word that a service is ready, as sd_notify(3) has it, only from processes of the
// service's cgroup, and often only from the first of them. So the container gets a socket of its own, in a directory
// of its state, and the runtime passes on what comes:
//
//	container                          runtime (run, or start)           service manager
//	─────────                          ───────────────────────           ───────────────
//	/run/notify/notify.sock ─────────► ROOT/ID/notify/notify.sock
//	                                   READY=1 ────────────────────────► $NOTIFY_SOCKET
//	                                   MAINPID=… ──────────────────────►
//	                                   BARRIER=1, and a pipe ──────────► closes it when it has read all that
const (
	readyDir     = "notify"
	readySocket  = "notify.sock"
	readyInside  = "/run/notify"
	barrierLimit = 30000 // milliseconds
)

// addReadySocket makes the directory of the socket, and gives it to the container.
func (c *Container) addReadySocket(spec *specs.Spec) error {
	dir := filepath.Join(c.dir, readyDir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make a directory for the notify socket: %w", err)
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: readyInside, Type: "bind", Source: dir, Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"},
	})
	spec.Process.Env = append(spec.Process.Env, "NOTIFY_SOCKET="+filepath.Join(readyInside, readySocket))
	return nil
}

// Readiness is the container's notify socket and the service manager's.
type Readiness struct{ socket, manager, pidfd int }

// ListenReady binds the container's notify socket, before the container starts. Without a service manager, or for a
// container that was created without a socket, nobody is told anything, and there is nothing to wait for.
func (c *Container) ListenReady(manager string) (_ *Readiness, err error) {
	if manager == "" {
		return nil, nil
	}
	name, done, err := shortName(filepath.Join(c.dir, readyDir, readySocket))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer done()
	r := &Readiness{-1, -1, -1}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	const kind = unix.SOCK_DGRAM | unix.SOCK_CLOEXEC
	if r.socket, err = unix.Socket(unix.AF_UNIX, kind, 0); err != nil {
		return nil, fmt.Errorf("cannot make the notify socket: %w", err)
	}
	if err := unix.Bind(r.socket, &unix.SockaddrUnix{Name: name}); err != nil {
		return nil, fmt.Errorf("cannot bind the notify socket: %w", err)
	}
	if err := os.Chmod(name, 0o777); err != nil { // for users of the container, whoever they are outside
		return nil, fmt.Errorf("cannot open the notify socket to the container: %w", err)
	}
	if r.manager, err = unix.Socket(unix.AF_UNIX, kind, 0); err != nil {
		return nil, fmt.Errorf("cannot connect to NOTIFY_SOCKET %q: %w", manager, err)
	}
	if err := unix.Connect(r.manager, &unix.SockaddrUnix{Name: manager}); err != nil {
		return nil, fmt.Errorf("cannot connect to NOTIFY_SOCKET %q: %w", manager, err)
	}
	if r.pidfd, err = sys.PidfdOpen(c.Pid); err != nil {
		return nil, fmt.Errorf("cannot watch the container's process: %w", err)
	}
	return r, nil
}

// Close closes the sockets.
func (r *Readiness) Close() {
	if r == nil {
		return
	}
	for _, fd := range []int{r.socket, r.manager, r.pidfd} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// Wait returns when the container has said that it is ready and the service manager knows it, and who its process
// mainPid is; or when the container has ended.
func (r *Readiness) Wait(mainPid int) error {
	if r == nil {
		return nil
	}
	for {
		message, err := r.receive()
		if message == nil || err != nil {
			return err
		}
		for line := range bytes.SplitSeq(message, []byte{'\n'}) {
			if bytes.HasPrefix(line, []byte("READY=")) {
				return r.tell(line, mainPid)
			}
		}
	}
}

// Relay passes on what the container has to say until it ends, and calls this process the main one.
func (r *Readiness) Relay() {
	if r == nil || r.Wait(os.Getpid()) != nil {
		return
	}
	// Not all: the main process, the watchdog's time and stored descriptors are the runtime's.
	passed := []string{"READY", "RELOADING", "MONOTONIC_USEC", "STOPPING", "STATUS", "ERRNO", "WATCHDOG", "EXTEND_TIMEOUT_USEC"}
	for {
		message, err := r.receive()
		if message == nil || err != nil {
			return
		}
		lines := slices.DeleteFunc(bytes.Split(message, []byte{'\n'}), func(line []byte) bool {
			name, _, _ := bytes.Cut(line, []byte{'='})
			return !slices.Contains(passed, string(name))
		})
		if len(lines) > 0 {
			_ = r.send(bytes.Join(lines, []byte{'\n'}), nil)
		}
	}
}

// receive returns the next message, or nil when the container has ended and there is none left.
func (r *Readiness) receive() ([]byte, error) {
	ready := []unix.PollFd{{Fd: int32(r.socket), Events: unix.POLLIN}, {Fd: int32(r.pidfd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(ready, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("cannot wait for word from the container: %w", err)
		case ready[0].Revents == 0:
			return nil, nil
		}
		message := make([]byte, 4096)
		n, _, err := unix.Recvfrom(r.socket, message, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot read the notify socket: %w", err)
		}
		return message[:n], nil
	}
}

// tell tells the service manager, and waits until it has heard: when this process is gone, it can't find out any more
// whose word it was.
func (r *Readiness) tell(ready []byte, mainPid int) error {
	ends := make([]int, 2)
	if err := unix.Pipe2(ends, unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("cannot make a pipe for the service manager: %w", err)
	}
	defer func() { _ = unix.Close(ends[0]) }()
	err := r.send(append(ready, '\n'), nil)
	if err == nil {
		err = r.send([]byte("MAINPID="+strconv.Itoa(mainPid)+"\n"), nil)
	}
	if err == nil {
		err = r.send([]byte("BARRIER=1"), unix.UnixRights(ends[1]))
	}
	_ = unix.Close(ends[1])
	if err != nil {
		return err
	}
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(ends[0])}}, barrierLimit) // who doesn't know of barriers is not waited for longer
	return nil
}

func (r *Readiness) send(message, control []byte) error {
	if err := unix.Sendmsg(r.manager, message, control, nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("cannot send to NOTIFY_SOCKET: %w", err)
	}
	return nil
}
