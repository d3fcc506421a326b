package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// External is a mount of what is the host's. A checkpoint has its name only, and a restore mounts it anew.
type External struct{ Destination, Source string }

// Externals lists the mounts of a container that show something of the host's.
func Externals(c Config) ([]External, error) {
	root, err := openRoot(c.Root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(root) }()
	var all []External
	add := func(destination, source string) {
		all = append(all, External{Destination: resolve(root, destination), Source: source})
	}
	for i, m := range c.Spec.Mounts {
		o := parseOptions(m.Options)
		bound := isBound(m, o)
		switch {
		case bound && (o.idmap || len(m.UIDMappings) > 0):
			return nil, fmt.Errorf("cannot checkpoint or restore mounts[%d] %q: id-mapped mounts are not implemented for it", i, m.Destination)
		case bound:
			source := sourceOf(c.Bundle, m)
			add(m.Destination, source)
			if !o.recursive {
				continue
			}
			below, err := mountsBelow(source)
			if err != nil {
				return nil, err
			}
			for _, inner := range below {
				add(path.Join(m.Destination, inner), path.Join(source, inner))
			}
		case isCgroup(m) && !c.CgroupNamespace:
			for destination, source := range boundCgroups(m, c.CgroupPaths) {
				add(destination, source)
			}
		}
	}
	for _, device := range append(defaultDevices(), c.Spec.Linux.Devices...) {
		add(device.Path, device.Path)
	}
	return all, nil
}

// boundCgroups returns the directories of the host that a cgroup mount consists of without a cgroup namespace.
func boundCgroups(m specs.Mount, paths map[string]string) map[string]string {
	if _, v2 := paths[unified]; v2 && len(paths) == 1 {
		return map[string]string{m.Destination: hierarchyOfAll}
	}
	binds := map[string]string{}
	for _, h := range hierarchies(paths) {
		binds[path.Join(m.Destination, h.name)] = h.hostPath
	}
	return binds
}

// mountsBelow lists the host's mounts inside a directory, relative to it.
func mountsBelow(dir string) ([]string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("cannot list the host's mounts: %w", err)
	}
	var below []string
	for _, mount := range mounts {
		if inner, ok := strings.CutPrefix(mount.Mountpoint, strings.TrimSuffix(real, "/")+"/"); ok && inner != "" {
			below = append(below, inner)
		}
	}
	return below, nil
}

func isCgroup(m specs.Mount) bool { return m.Type == "cgroup" || m.Type == "cgroup2" }

func isBound(m specs.Mount, o options) bool { return (o.bind || m.Type == "bind") && !o.remount }

// MaskedFiles returns those of the masked paths of a running container that are files behind /dev/null.
func MaskedFiles(pid int, masked []string) ([]string, error) {
	root, err := openRoot(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(root) }()
	var files []string
	for _, name := range masked {
		var stat unix.Stat_t
		fd, err := openIn(root, name, unix.O_PATH)
		if err == nil {
			err = unix.Fstat(fd, &stat)
			_ = unix.Close(fd)
		}
		switch {
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		case err != nil:
			return nil, fmt.Errorf("cannot look at masked path %q: %w", name, err)
		case stat.Mode&unix.S_IFMT != unix.S_IFDIR:
			files = append(files, path.Clean("/"+name))
		}
	}
	return files, nil
}

// MakeMountPoints creates what is missing in the root for the mounts of a configuration, as Fill does for a new
// container. What is bound is bound for it, as it may hold the mount points of others: the caller is in a mount
// namespace of its own.
func MakeMountPoints(c Config) error {
	root, err := openRoot(c.Root)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(root) }()
	var tmpfs []string // what is in one comes out of the checkpoint
	for _, m := range c.Spec.Mounts {
		inside := func(dir string) bool { return strings.HasPrefix(path.Clean(m.Destination), path.Clean(dir)+"/") }
		if isCgroup(m) || slices.ContainsFunc(tmpfs, inside) {
			continue
		}
		if m.Type == "tmpfs" {
			tmpfs = append(tmpfs, m.Destination)
		}
		if err := makeMountPoint(root, c.Bundle, m); err != nil {
			return fmt.Errorf("cannot create mount point %q: %w", m.Destination, err)
		}
	}
	return nil
}

func makeMountPoint(root int, bundle string, m specs.Mount) error {
	if !isBound(m, parseOptions(m.Options)) {
		fd, err := makeIn(root, m.Destination, true)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
	source := sourceOf(bundle, m)
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	target, err := makeIn(root, m.Destination, info.IsDir())
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(target) }()
	return Bind(source, target)
}

// Bind mounts a part of the host's tree on what a descriptor stands for.
func Bind(source string, target int) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", source, err)
	}
	defer func() { _ = unix.Close(tree) }()
	if err := unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot mount %q: %w", source, err)
	}
	return nil
}

func openRoot(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open root file system %q: %w", dir, err)
	}
	return fd, nil
}

// openIn opens a path inside the root, wherever links in it lead.
func openIn(root int, name string, flags int) (int, error) {
	return sys.Openat2(root, relative(name), &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: inRoot})
}

// makeIn is openIn for a mount point that may have to be made.
func makeIn(root int, name string, directory bool) (int, error) {
	fd, err := openIn(root, name, unix.O_PATH)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	parent, err := makeIn(root, path.Dir(path.Clean("/"+name)), true)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(parent) }()
	if directory {
		err = unix.Mkdirat(parent, path.Base(name), 0o755)
	} else {
		err = unix.Mknodat(parent, path.Base(name), unix.S_IFREG|0o644, 0)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return openIn(root, name, unix.O_PATH)
}

// resolve returns a path without the links that are in it, or as it is if that is not to be found in the root.
func resolve(root int, name string) string {
	name = path.Clean("/" + name)
	top, err := pathOf(root)
	if err != nil {
		return name
	}
	fd, err := openIn(root, name, unix.O_PATH)
	if err != nil {
		return name
	}
	defer func() { _ = unix.Close(fd) }()
	real, err := pathOf(fd)
	if inside, ok := strings.CutPrefix(real, strings.TrimSuffix(top, "/")); err == nil && ok && strings.HasPrefix(inside, "/") {
		return inside
	}
	return name
}

func pathOf(fd int) (string, error) { return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)) }

func sourceOf(bundle string, m specs.Mount) string {
	if filepath.IsAbs(m.Source) {
		return m.Source
	}
	return filepath.Join(bundle, m.Source)
}
