package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
	"github.com/berthd/berth/shim/runtimecmd"
)

// patience bounds the wait for the end of a killed shim.
const patience = 10 * time.Second

// pidFile is where the serving process writes its pid.
func (inv *invocation) pidFile() string { return filepath.Join(inv.bundle, "shim.pid") }

// stop kills a shim that still serves, though its manager has given it up. One that was told to shut down has removed its
// pid file, and may end in peace: it has events to send.
func stop(inv invocation) error {
	shim, err := inv.findShim()
	if err != nil || shim < 0 {
		return err
	}
	defer func() { _ = unix.Close(shim) }()
	if err := unix.PidfdSendSignal(shim, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot stop the shim: %w", os.NewSyscallError("pidfd_send_signal", err))
	}
	if err := runtimecmd.AwaitEnd(shim, time.Now().Add(patience)); err != nil {
		return fmt.Errorf("cannot stop the shim: %w", err)
	}
	return nil
}

// findShim returns a descriptor of the process that serves the container, -1 if there is none.
func (inv *invocation) findShim() (int, error) {
	data, err := os.ReadFile(inv.pidFile())
	if errors.Is(err, os.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("cannot find the shim: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return -1, nil // cut off by a power failure, which has ended the shim, too
	}
	// The descriptor first: what is checked then is the process that will be killed, whatever happens to the pid.
	pidfd, err := sys.PidfdOpen(pid)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("cannot find the shim: %w", os.NewSyscallError("pidfd_open", err))
	}
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !inv.isShim(string(cmdline)) {
		_ = unix.Close(pidfd)
		return -1, nil
	}
	return pidfd, nil
}

// isShim recognizes the command line of this container's shim.
func (inv *invocation) isShim(cmdline string) bool {
	begin := strings.Join([]string{program, "-namespace", inv.namespace, "-id", inv.id, "-bundle", inv.bundle, ""}, "\x00")
	return strings.HasPrefix(cmdline, begin) && strings.HasSuffix(cmdline, "\x00"+serveVerb+"\x00")
}
