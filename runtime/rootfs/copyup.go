package rootfs

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyInto copies the contents of one open directory into another, and with `itself` its owner and mode. It follows no
// link: both trees are reached by descriptors only.
func copyInto(from, to int, itself bool) error {
	// The descriptor gets a position of its own, and the caller keeps his.
	own, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(own), "directory")
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyEntry(own, to, name); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	if !itself {
		return nil
	}
	var stat unix.Stat_t
	if err := unix.Fstat(own, &stat); err != nil {
		return err
	}
	return errors.Join(unix.Fchownat(to, "", int(stat.Uid), int(stat.Gid), unix.AT_EMPTY_PATH), unix.Fchmodat(to, ".", stat.Mode&0o7777, 0))
}

func copyEntry(from, to int, name string) error {
	var stat unix.Stat_t
	if err := unix.Fstatat(from, name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var err error
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = copyDirectory(from, to, name)
	case unix.S_IFREG:
		err = copyRegular(from, to, name)
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		var n int
		if n, err = unix.Readlinkat(from, name, target); err == nil {
			err = unix.Symlinkat(string(target[:n]), to, name)
		}
	case unix.S_IFSOCK:
		return nil // nobody listens on a copy
	default:
		err = unix.Mknodat(to, name, stat.Mode, int(stat.Rdev))
	}
	if err != nil {
		return err
	}
	if err := unix.Fchownat(to, name, int(stat.Uid), int(stat.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFLNK { // after the owner, whose change takes set-user-id bits away
		if err := unix.Fchmodat(to, name, stat.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	times := []unix.Timespec{stat.Atim, stat.Mtim}
	return unix.UtimesNanoAt(to, name, times, unix.AT_SYMLINK_NOFOLLOW)
}

func copyDirectory(from, to int, name string) error {
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return err
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	source, err := unix.Openat(from, name, flags, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(source) }()
	target, err := unix.Openat(to, name, flags, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(target) }()
	return copyInto(source, target, false)
}

func copyRegular(from, to int, name string) error {
	source, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	in := os.NewFile(uintptr(source), name)
	defer func() { _ = in.Close() }()
	target, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(target), name)
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
