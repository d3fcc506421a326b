package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/terminal"
)

// Where the seccomp profile asks an agent about some calls, the process loads its filter and then waits once more:
//
//	process                              runtime                        agent
//	───────                              ───────                        ─────
//	read ◄────────────────────────────── one byte
//	seccomp: the listener is born
//	read                                 take it (pidfd_getfd)
//	                                     connect ─────────────────────► accept
//	                                     state, listener ─────────────► decides from now on
//	read ◄────────────────────────────── one byte
//	execve
//
// The process can't send the listener itself: its filter may ask the agent about that very call. For the same reason
// nothing tells the runtime when to look.

// channel is how the runtime hears from a process.
type channel interface {
	Pending(milliseconds int) bool
	Release() error
}

// notifies tells whether a profile asks an agent.
func notifies(spec *specs.Spec) bool {
	if spec.Linux.Seccomp == nil {
		return false
	}
	for i := range spec.Linux.Seccomp.Syscalls {
		if spec.Linux.Seccomp.Syscalls[i].Action == specs.ActNotify {
			return true
		}
	}
	return false
}

// handOver sends the listener of a process that has been released to the agent, and lets the process go on. If there
// are other news of the process they are left to whoever waits for them next.
func (c *Container) handOver(spec *specs.Spec, pid int, status specs.ContainerState, process channel) error {
	if !notifies(spec) {
		return nil
	}
	listener, err := takeListener(pid, process)
	if err != nil || listener < 0 {
		return err
	}
	defer func() { _ = unix.Close(listener) }()
	state := c.OCIState(status)
	if err := sendListener(SocketOf(c.Bundle, spec.Linux.Seccomp.ListenerPath), listener, specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: spec.Linux.Seccomp.ListenerMetadata, State: state,
	}); err != nil {
		return fmt.Errorf("cannot hand the seccomp listener over to linux.seccomp.listenerPath %q: %w", spec.Linux.Seccomp.ListenerPath, err)
	}
	return process.Release()
}

// takeListener waits until the process has a listener, and returns a descriptor of it, or -1 if it has failed.
func takeListener(pid int, process channel) (int, error) {
	pidfd, err := sys.PidfdOpen(pid)
	if err != nil {
		return -1, fmt.Errorf("cannot open the container's process: %w", err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	const patience, interval = 10 * time.Second, 1 // milliseconds
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return -1, fmt.Errorf("cannot look for the seccomp listener: %w", err)
		}
		for _, entry := range entries {
			if target, err := os.Readlink(dir + "/" + entry.Name()); err != nil || target != "anon_inode:seccomp notify" {
				continue
			}
			number, err := strconv.Atoi(entry.Name())
			if err != nil {
				return -1, err
			}
			listener, err := unix.PidfdGetfd(pidfd, number, 0)
			if err != nil {
				return -1, fmt.Errorf("cannot take the seccomp listener: %w", err)
			}
			return listener, nil
		}
		if process.Pending(interval) {
			return -1, nil
		}
	}
	return -1, errors.New("cannot find the seccomp listener: the process has not loaded its filter")
}

func sendListener(path string, listener int, state specs.ContainerProcessState) error {
	content, err := json.Marshal(state)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := terminal.ConnectSoon(fd, path); err != nil {
		return err
	}
	sent, err := unix.SendmsgN(fd, content, unix.UnixRights(listener), nil, unix.MSG_NOSIGNAL)
	if err == nil && sent < len(content) {
		err = errors.New("the agent does not read")
	}
	return err
}

// startChannel is the connection to a process that waits for start.
type startChannel int

func (s startChannel) Pending(milliseconds int) bool { return launch.Pending(int(s), milliseconds) }

func (s startChannel) Release() error {
	if _, err := unix.Write(int(s), []byte{1}); err != nil {
		return fmt.Errorf("cannot release the container's process: %w", err)
	}
	return nil
}
