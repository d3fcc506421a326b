package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Probe makes an overlay over temporary directories below dir, writes a file to it and removes one of a lower layer, and
// returns why that doesn't work, or nil. The overlay is never attached to the tree of mounts, so it goes with its descriptor, also when the process is
// killed.
func Probe(dir string) (err error) {
	tmp, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // Cleanup finds what is left
	for _, name := range []string{"lower1", "lower2", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(tmp, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(tmp, "lower1", removed), nil, 0o600); err != nil {
		return err
	}
	top, err := os.Open(tmp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, top.Close()) }()
	// Through the descriptor, because an option's value is limited to 255 bytes.
	path := fmt.Sprintf("/proc/self/fd/%d/", top.Fd())
	merged, err := mountDetached(append(mountOptions(),
		"workdir="+path+"work", "upperdir="+path+"upper", "lowerdir="+path+"lower1:"+path+"lower2"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(merged)) }()
	file, err := unix.Openat(merged, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write to an overlay: %w", err)
	}
	if err := unix.Close(file); err != nil {
		return err
	}
	return probeWhiteout(merged)
}

// removed is the file of the lower layer that the probe removes.
const removed = "removed"

// probeWhiteout removes a file of a lower layer. On a file system whose directories don't tell the type of an entry (XFS
// made with ftype=0) overlayfs mounts, but lists what was removed.
func probeWhiteout(merged int) error {
	if err := unix.Unlinkat(merged, removed, 0); err != nil {
		return fmt.Errorf("cannot remove a file of a lower layer: %w", err)
	}
	fd, err := unix.Openat(merged, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open an overlay: %w", err)
	}
	dir := os.NewFile(uintptr(fd), "overlay")
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("cannot list an overlay: %w", err)
	}
	if slices.Contains(names, removed) {
		return errors.New("a removed file is still listed: the file system does not keep types of directory entries (d_type)")
	}
	return nil
}

func mountDetached(options []string) (fd int, err error) {
	context, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen overlay", err)
	}
	defer func() { _ = unix.Close(context) }()
	for _, option := range options {
		key, value, hasValue := strings.Cut(option, "=")
		if hasValue {
			err = unix.FsconfigSetString(context, key, value)
		} else {
			err = unix.FsconfigSetFlag(context, key)
		}
		if err != nil {
			return -1, fmt.Errorf("cannot set overlay option %q: %w", option, err)
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, os.NewSyscallError("fsconfig overlay", err)
	}
	fd, err = unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	return fd, os.NewSyscallError("fsmount overlay", err)
}
