package namespace

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Within does something in a namespace of another process.
func Within(kind int, path string, act func() error) error {
	return onThread(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil && kind == unix.CLONE_NEWNS {
			err = unix.Unshare(unix.CLONE_FS) // the threads share their root
		}
		if err == nil {
			err = unix.Setns(fd, kind)
			_ = unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("cannot enter namespace %q: %w", path, err)
		}
		return act()
	})
}

// WithOwnMounts does something in a mount namespace of its own, in which nobody else sees what is mounted. It lasts as
// long as the processes started there.
func WithOwnMounts(act func() error) error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("cannot create a mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("cannot separate the host's mounts: %w", err)
		}
		return act()
	})
}

// onThread does something on a thread that goes away with it, whatever namespaces it has come to.
func onThread(act func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- act()
	}()
	return <-done
}
