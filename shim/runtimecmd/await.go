package runtimecmd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// patience bounds the wait for calls that a dead shim left, before they are killed.
const patience = 15 * time.Second

// AwaitCalls returns when the calls have ended that a shim had started when it was killed: what they are about to make
// could not be removed before. One that does not end in time is killed. The calls' log files are in the directory, have
// names of the prefix and .log, and exist as long as the calls run. isShim recognizes the shim's command line, which is
// also that of a child that has not executed the runtime yet.
func AwaitCalls(dir, prefix string, isShim func(cmdline string) bool) error {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot find the runtime's calls: %w", err)
	}
	var logs []string
	for _, file := range files {
		if name := file.Name(); strings.HasPrefix(name, prefix+".") && strings.HasSuffix(name, ".log") {
			logs = append(logs, filepath.Join(dir, name))
		}
	}
	if len(logs) == 0 {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("cannot find the runtime's calls: %w", err)
	}
	isCall := func(cmdline string) bool {
		return isShim(cmdline) || slices.ContainsFunc(logs, func(log string) bool {
			return strings.Contains(cmdline, "\x00--log\x00"+log+"\x00")
		})
	}
	deadline := time.Now().Add(patience)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if err := awaitCall(pid, isCall, deadline); err != nil {
			return fmt.Errorf("cannot wait for process %d of the runtime: %w", pid, err)
		}
	}
	return nil
}

// awaitCall waits for the end of a process, if it is a call.
func awaitCall(pid int, isCall func(cmdline string) bool, deadline time.Time) error {
	pidfd, err := sys.PidfdOpen(pid)
	if err != nil { // it has ended
		return nil
	}
	defer func() { _ = unix.Close(pidfd) }()
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !isCall(string(cmdline)) || leadsSession(pid) || !sharesMounts(pid) {
		return nil
	}
	if err := AwaitEnd(pidfd, deadline); !errors.Is(err, errLate) {
		return err
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return AwaitEnd(pidfd, time.Now().Add(endLimit))
}

// sharesMounts reports whether a process is in the mount namespace of this one. Runtimes are; the processes of a container
// are not, and may have any command line.
func sharesMounts(pid int) bool {
	var ours, theirs unix.Stat_t
	if unix.Stat("/proc/self/ns/mnt", &ours) != nil || unix.Stat(filepath.Join("/proc", strconv.Itoa(pid), "ns/mnt"), &theirs) != nil {
		return true
	}
	return ours.Ino == theirs.Ino
}

// leadsSession tells a container's process that has not executed its program yet from the call that made it: they
// have the same command line.
func leadsSession(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	// pid (name) state ppid pgrp session …, where the name may hold anything
	fields := strings.Fields(string(stat)[strings.LastIndex(string(stat), ")")+1:])
	return len(fields) > 3 && fields[3] == strconv.Itoa(pid)
}

// errLate says that a process did not end.
var errLate = errors.New("it did not end in time")

// AwaitEnd returns when the process has ended.
func AwaitEnd(pidfd int, deadline time.Time) error {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return errLate
		}
		poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return nil
		}
	}
}
