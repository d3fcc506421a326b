// Package rootfs mounts what a snapshotter hands out: the root file system of a container.
package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
	"github.com/berthd/berth/manager/thread"
)

// optionsLimit of mount(2): a page, with the zero at its end.
const optionsLimit = 4095

// Mount puts the mounts on one another at target, which it makes.
func Mount(mounts []*types.Mount, target string) error {
	if len(mounts) == 0 {
		return fmt.Errorf("cannot mount the root file system at %q: the snapshotter gave no mounts", target)
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return fmt.Errorf("cannot make mount point: %w", err)
	}
	for i, mount := range mounts {
		path := target
		if mount.GetTarget() != "" {
			path = filepath.Join(target, filepath.Clean("/"+mount.GetTarget()))
		}
		if err := mountOne(mount, path); err != nil {
			err = fmt.Errorf("cannot mount %s of %q at %q with %q: %w",
				mount.GetType(), mount.GetSource(), path, strings.Join(mount.GetOptions(), ","), err)
			if i > 0 {
				err = errors.Join(err, Unmount(target))
			}
			return err
		}
	}
	return nil
}

func mountOne(mount *types.Mount, path string) error {
	flags, data := parseOptions(mount.GetOptions())
	kind := mount.GetType()
	if kind == "bind" || kind == "rbind" {
		flags |= unix.MS_BIND
		if kind == "rbind" {
			flags |= unix.MS_REC
		}
		kind = ""
	}
	if flags&unix.MS_BIND != 0 {
		return bind(mount.GetSource(), path, flags, data)
	}
	if len(data) < optionsLimit {
		return unix.Mount(mount.GetSource(), path, kind, flags, data)
	}
	return mountFromCommonDirectory(mount.GetSource(), path, kind, flags, data)
}

// bind mounts, then sets the flags, which the kernel ignores in the first call.
func bind(source, path string, flags uintptr, data string) error {
	if err := unix.Mount(source, path, "", flags&(unix.MS_BIND|unix.MS_REC), data); err != nil {
		return err
	}
	if flags&^(unix.MS_BIND|unix.MS_REC) == 0 {
		return nil
	}
	if err := unix.Mount("", path, "", flags|unix.MS_REMOUNT, ""); err != nil {
		return errors.Join(err, unix.Unmount(path, unix.MNT_DETACH))
	}
	return nil
}

// mountFromCommonDirectory shortens the lower directories of an image with many layers: relative to the directory
// that all have in common they fit into a page. The directory is a property of the thread, which is thrown away.
func mountFromCommonDirectory(source, path, kind string, flags uintptr, data string) error {
	common, short := relativeLowers(data)
	if common == "" || len(short) >= optionsLimit {
		return fmt.Errorf("%d bytes of options are more than the kernel takes: %w", len(data), unix.E2BIG)
	}
	return thread.Spend(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Chdir(common); err != nil {
			return err
		}
		return unix.Mount(source, path, kind, flags, short)
	})
}

func relativeLowers(data string) (common, short string) {
	options := strings.Split(data, ",")
	for i, option := range options {
		list, found := strings.CutPrefix(option, "lowerdir=")
		if !found {
			continue
		}
		lowers := strings.Split(list, ":")
		common = filepath.Dir(lowers[0])
		for common != "/" && !allBelow(common, lowers) {
			common = filepath.Dir(common)
		}
		for j := range lowers {
			lowers[j] = strings.TrimPrefix(lowers[j], common+"/")
		}
		options[i] = "lowerdir=" + strings.Join(lowers, ":")
		return common, strings.Join(options, ",")
	}
	return "", data
}

func allBelow(dir string, paths []string) bool {
	for _, path := range paths {
		if !strings.HasPrefix(path, dir+"/") {
			return false
		}
	}
	return true
}

func parseOptions(options []string) (flags uintptr, data string) {
	known := map[string]uintptr{
		"bind": unix.MS_BIND, "rbind": unix.MS_BIND | unix.MS_REC, "ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID,
		"nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC, "sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC,
		"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME, "strictatime": unix.MS_STRICTATIME,
		"rw": 0, "defaults": 0,
	}
	var rest []string
	for _, option := range options {
		if flag, ok := known[option]; ok {
			flags |= flag
		} else {
			rest = append(rest, option)
		}
	}
	return flags, strings.Join(rest, ",")
}

// LinkMtab makes /etc/mtab of a root file system a link to /proc/mounts, as Docker does, unless the image has something
// there: older programs read their mounts from it. The image's links are followed inside the root only. An image
// without /etc gets no link.
func LinkMtab(root string) error {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open the root file system: %w", &os.PathError{Op: "open", Path: root, Err: err})
	}
	defer func() { _ = unix.Close(dir) }()
	etc, err := sys.Openat2(dir, "etc", &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil //nolint:nilerr // there is no such directory
	}
	defer func() { _ = unix.Close(etc) }()
	if err := unix.Symlinkat("/proc/mounts", etc, "mtab"); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot make /etc/mtab: %w", &os.PathError{Op: "symlinkat", Path: "etc/mtab", Err: err})
	}
	return nil
}

// Unmount takes away everything that is mounted at target. It does nothing if target is not there or not a mount.
func Unmount(target string) error {
	for range 64 { // mounts that lie on one another
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot unmount %q: %w", target, err)
		}
	}
	return fmt.Errorf("cannot unmount %q: too many mounts on one another", target)
}
