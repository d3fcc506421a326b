// Package netns makes network namespaces that belong to no process: a bind mount keeps each alive, so that it survives
// berthd and every process of the container, and can be joined by its path.
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/manager/thread"
)

// Create makes a network namespace with its loopback device up and pins it at path. What an earlier Remove could not remove is let go
// of first: the path belongs to the caller.
func Create(path string) error {
	if err := create(path); err != nil {
		return fmt.Errorf("cannot make network namespace %q: %w", path, errors.Join(err, Remove(path)))
	}
	return nil
}

func create(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if errors.Is(err, os.ErrExist) {
		if err := Remove(path); err != nil {
			return err
		}
		file, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	}
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return thread.Spend(func() error { return pinHere(path) })
}

func pinHere(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare network namespace", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	return os.NewSyscallError("bind mount", unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""))
}

// interfaceFlags is struct ifreq of the kernel, as far as SIOCSIFFLAGS reads it.
type interfaceFlags struct {
	name  [unix.IFNAMSIZ]byte
	flags uint16
	_     [22]byte
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	request := interfaceFlags{flags: unix.IFF_UP}
	copy(request.name[:], "lo")
	// Safe: the kernel reads sizeof(struct ifreq) = 40 bytes, which interfaceFlags has, and keeps no pointer.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return os.NewSyscallError("set lo up", errno)
	}
	return nil
}

// Remove lets go of the namespace at path; it is gone when nothing else uses it. It does nothing if there is none.
func Remove(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) { // EINVAL: not a mount
		return fmt.Errorf("cannot unmount network namespace %q: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove network namespace: %w", err)
	}
	return nil
}
