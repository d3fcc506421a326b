// Package mounts opens what a snapshotter says is to be mounted, without the mount ever being visible to anybody.
package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/thread"
)

// Open mounts and returns the top directory of the mounted tree. The mount lives in a namespace of its own that ends
// before Open returns, so only the returned file holds it: closing it unmounts, and a crash leaves no mount behind.
func Open(mounts []*types.Mount) (*os.File, error) {
	if len(mounts) != 1 {
		return nil, errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("cannot mount a snapshot of %d mounts: not implemented, only single mounts are", len(mounts)))
	}
	var root *os.File
	err := thread.Spend(func() (err error) {
		root, err = openPrivately(mounts[0])
		return err
	})
	return root, err
}

func openPrivately(mount *types.Mount) (_ *os.File, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, os.NewSyscallError("unshare(CLONE_NEWNS)", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, os.NewSyscallError("mount(/, MS_PRIVATE)", err)
	}
	// Any directory will do as a mount point: nobody else sees what is mounted there.
	const target = "/proc"
	if mount.GetType() == "bind" {
		return openTree(mount)
	}
	flags, data := parseOptions(mount.GetOptions())
	if mount.GetType() == "overlay" && len(data) >= os.Getpagesize() {
		if data, err = shorten(data); err != nil {
			return nil, err
		}
	}
	if err := unix.Mount(mount.GetSource(), target, mount.GetType(), flags, data); err != nil {
		return nil, fmt.Errorf("cannot mount a snapshot: mount(%s, %s): %w", mount.GetType(), strings.Join(mount.GetOptions(), ","), err)
	}
	fd, err := unix.Open(target, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: mount.GetSource(), Err: err}
	}
	return os.NewFile(uintptr(fd), "snapshot"), nil
}

// openTree is what a bind mount is, without a place where it is mounted.
func openTree(mount *types.Mount) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, mount.GetSource(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: mount.GetSource(), Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	flags, _ := parseOptions(mount.GetOptions())
	if flags&unix.MS_RDONLY != 0 {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return nil, &os.PathError{Op: "mount_setattr", Path: mount.GetSource(), Err: err}
		}
	}
	opened, err := unix.Openat(fd, ".", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: mount.GetSource(), Err: err}
	}
	return os.NewFile(uintptr(opened), "snapshot"), nil
}

func parseOptions(options []string) (flags uintptr, data string) {
	known := map[string]uintptr{
		"ro": unix.MS_RDONLY, "rw": 0, "rbind": 0, "bind": 0, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV,
		"noexec": unix.MS_NOEXEC, "noatime": unix.MS_NOATIME,
	}
	var rest []string
	for _, option := range options {
		if flag, ok := known[option]; ok {
			flags |= flag
			continue
		}
		rest = append(rest, option)
	}
	return flags, strings.Join(rest, ",")
}

// shorten makes overlay's options fit into the page that mount(2) takes: it changes into the directory that all lower
// layers share and names them from there. The thread is ours, and so is its working directory.
func shorten(data string) (string, error) {
	options := strings.Split(data, ",")
	for i, option := range options {
		lower, found := strings.CutPrefix(option, "lowerdir=")
		if !found {
			continue
		}
		dirs := strings.Split(lower, ":")
		common := filepath.Dir(filepath.Dir(dirs[0]))
		for j, dir := range dirs {
			relative, err := filepath.Rel(common, dir)
			if err != nil || strings.HasPrefix(relative, "..") {
				return "", errors.New("cannot mount a snapshot: its layers are in different directories and too many to name")
			}
			dirs[j] = relative
		}
		if err := unix.Chdir(common); err != nil {
			return "", &os.PathError{Op: "chdir", Path: common, Err: err}
		}
		options[i] = "lowerdir=" + strings.Join(dirs, ":")
	}
	return strings.Join(options, ","), nil
}
