package process

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd/containerd/api/types"

	"github.com/berthd/berth/internal/errdefs"
)

// mountFlags are the options that mount(2) takes as flags. The others are the file system's own.
func mountFlag(option string) (set, clear uintptr, ok bool) {
	switch option {
	case "ro":
		return unix.MS_RDONLY, 0, true
	case "rw":
		return 0, unix.MS_RDONLY, true
	case "bind":
		return unix.MS_BIND, 0, true
	case "rbind":
		return unix.MS_BIND | unix.MS_REC, 0, true
	case "nosuid":
		return unix.MS_NOSUID, 0, true
	case "suid":
		return 0, unix.MS_NOSUID, true
	case "nodev":
		return unix.MS_NODEV, 0, true
	case "dev":
		return 0, unix.MS_NODEV, true
	case "noexec":
		return unix.MS_NOEXEC, 0, true
	case "exec":
		return 0, unix.MS_NOEXEC, true
	case "noatime":
		return unix.MS_NOATIME, 0, true
	case "nodiratime":
		return unix.MS_NODIRATIME, 0, true
	case "relatime":
		return unix.MS_RELATIME, 0, true
	case "sync":
		return unix.MS_SYNCHRONOUS, 0, true
	case "defaults", "loop":
		return 0, 0, option == "defaults"
	}
	return 0, 0, false
}

// Mount mounts a root file system. Mounts that have a target are mounted below it.
func Mount(mounts []*types.Mount, rootfs string) error {
	if len(mounts) == 0 {
		return nil
	}
	if err := os.MkdirAll(rootfs, 0o711); err != nil {
		return fmt.Errorf("cannot make the mount point of the root file system: %w", err)
	}
	for _, m := range mounts {
		if m.Target != "" && m.Target != "/" {
			return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("cannot mount the root file system: a mount at %q inside it is not implemented", m.Target))
		}
		if err := mountOne(m, rootfs); err != nil {
			return err
		}
	}
	return nil
}

func mountOne(m *types.Mount, target string) error {
	var flags uintptr
	var data []string
	for _, option := range m.Options {
		set, clear, ok := mountFlag(option)
		if !ok {
			data = append(data, option)
			continue
		}
		flags = flags&^clear | set
	}
	options := strings.Join(data, ",")
	if len(options) >= os.Getpagesize() {
		return mountLong(m, data, flags, target)
	}
	if err := unix.Mount(m.Source, target, m.Type, flags, options); err != nil {
		return mountError(m, target, err)
	}
	const notOnBind = unix.MS_BIND | unix.MS_REC
	if flags&unix.MS_BIND == 0 || flags&^notOnBind == 0 {
		return nil
	}
	// A bind mount takes its other flags only in a second call.
	if err := unix.Mount("", target, "", flags|unix.MS_REMOUNT, ""); err != nil {
		return errors.Join(mountError(m, target, err), unix.Unmount(target, unix.MNT_DETACH))
	}
	return nil
}

func mountError(m *types.Mount, target string, err error) error {
	return fmt.Errorf("cannot mount %q (type %q, options %q) at %q: %w", m.Source, m.Type, strings.Join(m.Options, ","), target, err)
}

// mountLong mounts an overlay of so many layers that its options don't fit into the page that mount(2) takes.
func mountLong(m *types.Mount, data []string, flags uintptr, target string) error {
	fsfd, err := unix.Fsopen(m.Type, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return mountError(m, target, err)
	}
	defer func() { _ = unix.Close(fsfd) }()
	for _, option := range data {
		key, value, _ := strings.Cut(option, "=")
		values := []string{value}
		if key == "lowerdir" { // one at a time, which Linux 6.5 and later take
			key, values = "lowerdir+", strings.Split(value, ":")
		}
		for _, v := range values {
			err := fsconfig(fsfd, key, v)
			if errors.Is(err, unix.EINVAL) && key == "lowerdir+" {
				return mountByNumber(m, data, flags, target)
			}
			if err != nil {
				return mountError(m, target, err)
			}
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return mountError(m, target, err)
	}
	var attr int
	if flags&unix.MS_RDONLY != 0 {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return mountError(m, target, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return mountError(m, target, err)
	}
	return nil
}

// mountByNumber is mountLong before Linux 6.5: layers have short names by their descriptors.
func mountByNumber(m *types.Mount, data []string, flags uintptr, target string) error {
	short := slices.Clone(data)
	for i, option := range data {
		layers, ok := strings.CutPrefix(option, "lowerdir=")
		if !ok {
			continue
		}
		var names []string
		for layer := range strings.SplitSeq(layers, ":") {
			fd, err := unix.Open(layer, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("cannot open layer %q: %w", layer, err)
			}
			defer func() { _ = unix.Close(fd) }()
			names = append(names, "/proc/self/fd/"+strconv.Itoa(fd))
		}
		short[i] = "lowerdir=" + strings.Join(names, ":")
	}
	if err := unix.Mount(m.Source, target, m.Type, flags, strings.Join(short, ",")); err != nil {
		return mountError(m, target, err)
	}
	return nil
}

func fsconfig(fd int, key, value string) error {
	if value == "" {
		return unix.FsconfigSetFlag(fd, key)
	}
	return unix.FsconfigSetString(fd, key, value)
}

// Unmount removes every mount at path, and does nothing if there is none.
func Unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot unmount %q: %w", path, err)
		}
	}
}
