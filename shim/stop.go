package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/shim/runtimecmd"
)

// patience bounds the wait for the end of a killed shim.
const patience = 10 * time.Second

// pidFile is where the serving process writes its pid.
func (inv *invocation) pidFile() string { return filepath.Join(inv.bundle, "shim.pid") }

// stop kills a shim that still serves, though its manager has given it up. One that was told to shut down serves no
// more, and may end in peace: it has events to send.
func stop(inv invocation) error {
	conn, err := net.Dial("unix", inv.socket())
	if err != nil {
		return nil
	}
	_ = conn.Close()
	data, err := os.ReadFile(inv.pidFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot find the shim: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("cannot find the shim: %q in %q is no pid", data, inv.pidFile())
	}
	// The descriptor first: what is checked then is the process that will be killed, whatever happens to the pid.
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot stop the shim: %w", os.NewSyscallError("pidfd_open", err))
	}
	defer func() { _ = unix.Close(pidfd) }()
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !inv.isShim(string(cmdline)) {
		return nil
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot stop the shim: %w", os.NewSyscallError("pidfd_send_signal", err))
	}
	if err := runtimecmd.AwaitEnd(pidfd, time.Now().Add(patience)); err != nil {
		return fmt.Errorf("cannot stop the shim: %w", err)
	}
	return nil
}

// isShim recognizes the command line of this container's shim.
func (inv *invocation) isShim(cmdline string) bool {
	begin := strings.Join([]string{program, "-namespace", inv.namespace, "-id", inv.id, "-bundle", inv.bundle, ""}, "\x00")
	return strings.HasPrefix(cmdline, begin) && strings.HasSuffix(cmdline, "\x00"+serveVerb+"\x00")
}
