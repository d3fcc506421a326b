// Command berth-init is process 1 of a container that asks for one: it starts the command behind "--", passes signals
// on to it, reaps orphans, and exits as the command did.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/version"
)

// Exit codes of a shell for a command that does not start.
const (
	codeUsage         = 125
	codeNotExecutable = 126
	codeNotFound      = 127
)

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if len(args) == 1 && args[0] == "--version" {
		fmt.Fprintln(os.Stdout, "berth-init version", version.String())
		return 0
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "berth-init: no command: usage: berth-init -- COMMAND [ARG...]")
		return codeUsage
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	child, err := start(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "berth-init: cannot run %q: %v\n", args[0], err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return codeNotFound
		}
		return codeNotExecutable
	}
	for s := range signals {
		number, ok := s.(syscall.Signal)
		if !ok {
			continue
		}
		switch number {
		case unix.SIGCHLD:
			if code, exited := reap(child); exited {
				return code
			}
		case unix.SIGURG: // Go's own, for preemption
		case unix.SIGTTIN, unix.SIGTTOU: // of the terminal that the child owns now
		default:
			// To the whole process group: a shell script's children get it too, as from a terminal.
			if unix.Kill(-child, number) != nil {
				_ = unix.Kill(child, number)
			}
		}
	}
	return codeUsage
}

func start(args []string) (pid int, err error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return 0, err
	}
	attributes := &os.ProcAttr{Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}}
	_, err = unix.IoctlGetInt(0, unix.TIOCGPGRP)
	attributes.Sys = &syscall.SysProcAttr{Setpgid: true, Foreground: err == nil, Ctty: 0}
	process, err := os.StartProcess(path, args, attributes)
	if err != nil {
		return 0, err
	}
	return process.Pid, nil
}

// reap collects every process that has ended, and tells how child did once it is among them.
func reap(child int) (code int, exited bool) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return code, exited
		}
		if pid != child {
			continue
		}
		exited = true
		code = status.ExitStatus()
		if status.Signaled() {
			code = 128 + int(status.Signal())
		}
	}
}
