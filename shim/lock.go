package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The bundle's directory is locked from the first to the last thing that start and delete do in it. A manager may be
// killed while start runs, and the next one have delete clean up:
//
//	start:   lock ─ listen ─ fork ─┬─ print the address ─ end
//	serve:                         └─ write the pid ─ unlock ─ serve …
//	delete:           wait for the lock ────────────────── find the pid, kill, remove
//
// serve inherits the lock, so that no shim is ever without a pid file that delete can read, even if start is killed.

// errLocked says that another command is at work in the bundle.
var errLocked = errors.New("another start or delete is under way")

// lock locks the bundle until the file is closed, here and wherever it was inherited. It waits for the lock if
// asked to, and otherwise fails with errLocked.
func (inv *invocation) lock(wait bool) (*os.File, error) {
	dir, err := os.Open(inv.bundle)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(dir.Fd()), how)
	}
	switch {
	case err == nil:
		return dir, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		err = errLocked
	default:
		err = fmt.Errorf("cannot lock bundle %q: %w", inv.bundle, os.NewSyscallError("flock", err))
	}
	_ = dir.Close()
	return nil, err
}
