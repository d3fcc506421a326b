package rootfs

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/namespace"
)

// Prepare makes what takes more than a list of system calls, before there is a child: file systems with a copy of what
// they hide, and id-mapped mounts, for which the container's own root may not ask. They are detached mounts, which the
// child finds as descriptors and may attach in its own mount namespace. Close closes them here.
func (b *Builder) Prepare() error {
	b.findProvided()
	for i, m := range b.config.Spec.Mounts {
		if err := errors.Join(b.refuseOverProc(m), b.checkBindOptions(m)); err != nil {
			return fmt.Errorf("cannot mount at %q: %w", m.Destination, err)
		}
		if len(m.UIDMappings) == 0 && !slices.ContainsFunc(m.Options, needsPreparation) {
			continue
		}
		fd, err := -1, error(nil)
		switch o := parseOptions(m.Options); {
		case o.idmap || len(m.UIDMappings) > 0:
			if from, later := b.provided[i]; later {
				err = b.mapLater(i, m, from)
				break
			}
			fd, err = b.mapped(m, o)
		case o.copyUp && m.Type == "tmpfs" && os.Geteuid() != 0:
			if err := b.planCopy(m.Destination); err != nil {
				return fmt.Errorf("cannot mount %q: %w", m.Destination, err)
			}
			continue
		case o.copyUp && m.Type == "tmpfs":
			fd, err = b.copied(m, o)
		case o.copyUp:
			err = fmt.Errorf("option \"tmpcopyup\" is for a tmpfs, not for type %q", m.Type)
		default:
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot mount %q: %w", m.Destination, err)
		}
		if fd >= 0 {
			b.prepared = append(b.prepared, fd)
			b.sources[i] = launch.Int(fd)
		}
	}
	return nil
}

// checkBindOptions refuses options of crun's that change what is bound, and warns of others: they are for a file system that is
// mounted, and a bind mount mounts none.
func (b *Builder) checkBindOptions(m specs.Mount) error {
	if m.Type != "bind" && !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
		return nil
	}
	o := parseOptions(m.Options)
	if !isBound(m, o) {
		return nil
	}
	for _, option := range o.superBlock {
		switch name, _, _ := strings.Cut(option, "="); name {
		case "idmap", "ridmap", "copy-symlink", "src-nofollow", "dest-nofollow":
			return fmt.Errorf("option %q of a bind mount is not implemented", option)
		}
		if b.config.Warn != nil {
			b.config.Warn(fmt.Sprintf("the mount at %q: option %q means nothing for a bind mount, it is ignored", m.Destination, option))
		}
	}
	return nil
}

// mapLater opens the user namespace by which the child maps what an earlier mount brings along. The root of a new user
// namespace has no right to.
func (b *Builder) mapLater(i int, m specs.Mount, from provided) error {
	if b.config.OwnUser {
		return fmt.Errorf("the ids of %q can't be mapped in a user namespace: an earlier mount of the container brings it along", m.Source)
	}
	users, err := b.userNamespace(m)
	if err != nil {
		return err
	}
	b.prepared = append(b.prepared, users)
	from.users = users
	b.provided[i] = from
	return nil
}

func needsPreparation(option string) bool {
	return option == "tmpcopyup" || option == "idmap" || option == "ridmap"
}

// Close closes what Prepare has opened. The child has its own copies.
func (b *Builder) Close() {
	for _, fd := range b.prepared {
		_ = unix.Close(fd)
	}
	b.prepared = nil
}

// mapped returns a detached part of the host's tree whose files have other owners.
func (b *Builder) mapped(m specs.Mount, o options) (int, error) {
	if !o.bind && m.Type != "bind" {
		return -1, fmt.Errorf("only bind mounts can have id mappings, not type %q", m.Type)
	}
	users, err := b.userNamespace(m)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(users) }()
	flags, attrFlags := uint(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC), uint(unix.AT_EMPTY_PATH)
	if o.recursive {
		flags |= unix.AT_RECURSIVE
	}
	if o.recursiveIDMap {
		attrFlags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.source(m), flags)
	if errors.Is(err, unix.EPERM) {
		return -1, fmt.Errorf("cannot map the ids of %q: only root may do that: %w", m.Source, err)
	}
	if err != nil {
		return -1, fmt.Errorf("cannot open %q: %w", m.Source, err)
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users)}
	if err := unix.MountSetattr(fd, "", attrFlags, attr); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("cannot map the ids of %q (can its file system do that?): %w", m.Source, err)
	}
	return fd, nil
}

// userNamespace returns a descriptor of a user namespace with the mappings of the mount, or else of the container.
func (b *Builder) userNamespace(m specs.Mount) (int, error) {
	linux := b.config.Spec.Linux
	mapping := &specs.Linux{UIDMappings: m.UIDMappings, GIDMappings: m.GIDMappings}
	if len(m.UIDMappings) == 0 {
		for _, n := range linux.Namespaces {
			if n.Type == specs.UserNamespace && n.Path != "" {
				return unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			}
		}
		mapping.UIDMappings, mapping.GIDMappings = linux.UIDMappings, linux.GIDMappings
		if len(mapping.UIDMappings) == 0 {
			return -1, fmt.Errorf("option \"idmap\" needs uidMappings and gidMappings of the mount, or a user namespace of the container")
		}
	}
	// A process that does nothing else is what the namespace is made with.
	program := launch.New()
	program.Wait()
	process, err := launch.Fork(program, launch.Birth{Flags: unix.CLONE_NEWUSER, CgroupFD: -1})
	if err != nil {
		return -1, err
	}
	defer process.Close()
	defer process.Kill()
	if err := namespace.WriteMappings(process.Pid, mapping); err != nil {
		return -1, err
	}
	return unix.Open(fmt.Sprintf("/proc/%d/ns/user", process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// copied returns a detached tmpfs with a copy of the directory that it will hide.
func (b *Builder) copied(m specs.Mount, o options) (_ int, err error) {
	context, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(context) }()
	source, err := b.openHidden(m.Destination)
	if err != nil && !os.IsNotExist(err) {
		return -1, err
	}
	if source >= 0 {
		defer func() { _ = unix.Close(source) }()
	}
	for _, option := range slices.Concat([]string{"source=" + cmp.Or(m.Source, m.Type)}, o.superFlags, o.superBlock) {
		key, value, isString := strings.Cut(option, "=")
		if isString {
			err = unix.FsconfigSetString(context, key, value)
		} else {
			err = unix.FsconfigSetFlag(context, key)
		}
		if err != nil {
			return -1, fmt.Errorf("cannot set option %q: %w", option, err)
		}
	}
	if label := b.config.Spec.Linux.MountLabel; label != "" {
		if err := unix.FsconfigSetString(context, "context", label); err != nil {
			return -1, fmt.Errorf("cannot set linux.mountLabel %q: %w", label, err)
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, err
	}
	mount, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, int(o.set&^unix.MOUNT_ATTR_RDONLY))
	if err != nil {
		return -1, err
	}
	if source >= 0 {
		if err := copyInto(source, mount, !o.has("mode")); err != nil {
			_ = unix.Close(mount)
			return -1, fmt.Errorf("cannot copy what is there into it: %w", err)
		}
	}
	return mount, nil
}

// openHidden opens a directory inside the container's root.
func (b *Builder) openHidden(destination string) (int, error) {
	root, err := unix.Open(b.config.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: b.config.Root, Err: err}
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := sys.Openat2(root, relative(destination), &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: inRoot})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: filepath.Join(b.config.Root, destination), Err: err}
	}
	return fd, nil
}
