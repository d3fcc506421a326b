package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

const emptyPath = unix.AT_EMPTY_PATH

// mount adds one mount of the configuration: made detached, given its attributes, and only then attached.
func (b *Builder) mount(i int, m specs.Mount) error {
	o, err := parseOptions(m.Options)
	if err != nil {
		return fmt.Errorf("cannot mount %q: %w", m.Destination, err)
	}
	if !b.config.OwnUser {
		if err := b.openSource(i, m); err != nil {
			return err
		}
	}
	switch {
	case o.copyUp:
		o.set |= o.setAll
		b.attachDirectory(m, o, b.sources[i])
		return nil
	case b.isTaken(i):
		b.bindMount(m, o, b.sources[i])
		return nil
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return b.cgroupMount(m, o)
	}
	if isDev(m.Destination) && o.set&unix.MOUNT_ATTR_RDONLY != 0 {
		o.set &^= unix.MOUNT_ATTR_RDONLY // its devices come first
		b.readOnlyDev = true
	}
	mount := b.newMount(m, o)
	target := b.target(m.Destination, true)
	b.attach(m, mount, target)
	b.propagate(mount, m.Destination, o.propagation)
	b.program.Close(mount)
	return nil
}

// newMount adds the making of a detached mount of a file system and returns its descriptor.
func (b *Builder) newMount(m specs.Mount, o options) launch.Arg {
	p := b.program
	name := fmt.Sprintf("file system %q for %q", m.Type, m.Destination)
	context := p.Call("open", name, unix.SYS_FSOPEN, p.String(m.Type), launch.Int(unix.FSOPEN_CLOEXEC)).
		Explain(func(errno unix.Errno) error {
			if errno == unix.ENODEV {
				return fmt.Errorf("cannot mount %q: the kernel has no file system %q", m.Destination, m.Type)
			}
			return fmt.Errorf("cannot open %s: %w", name, errno)
		}).Result()
	configure := func(command int, key, value string) {
		valueArg := launch.Int(0)
		object := fmt.Sprintf("option %q of the mount at %q", key, m.Destination)
		if command == unix.FSCONFIG_SET_STRING {
			valueArg = p.String(value)
			object = fmt.Sprintf("option %q of the mount at %q", key+"="+value, m.Destination)
		}
		p.Call("set", object, unix.SYS_FSCONFIG, context, launch.Int(command), p.String(key), valueArg, launch.Int(0))
	}
	if m.Source != "" {
		configure(unix.FSCONFIG_SET_STRING, "source", m.Source)
	}
	for _, flag := range o.superFlags {
		configure(unix.FSCONFIG_SET_FLAG, flag, "")
	}
	for _, option := range o.superBlock {
		if key, value, ok := strings.Cut(option, "="); ok {
			configure(unix.FSCONFIG_SET_STRING, key, value)
		} else {
			configure(unix.FSCONFIG_SET_FLAG, key, "")
		}
	}
	if label := b.config.Spec.Linux.MountLabel; label != "" && takesLabel(m.Type) {
		configure(unix.FSCONFIG_SET_STRING, "context", label)
	}
	p.Call("create", name, unix.SYS_FSCONFIG, context, launch.Int(unix.FSCONFIG_CMD_CREATE), launch.Int(0), launch.Int(0), launch.Int(0))
	mount := p.Call("mount", name, unix.SYS_FSMOUNT, context, launch.Int(unix.FSMOUNT_CLOEXEC), launch.Int(o.set|o.setAll)).Result()
	p.Close(context)
	return mount
}

// takesLabel tells whether files of a type of file system can be given a label by linux.mountLabel. SELinux has its own
// ideas about those of the others.
func takesLabel(kind string) bool {
	switch kind {
	case "proc", "sysfs", "mqueue", "cgroup", "cgroup2":
		return false
	}
	return true
}

// source is where a bind mount comes from.
func (b *Builder) source(m specs.Mount) string {
	if filepath.IsAbs(m.Source) {
		return m.Source
	}
	return filepath.Join(b.config.Bundle, m.Source)
}

// openSource adds the taking of a part of the host's tree, if the mount is of that kind.
func (b *Builder) openSource(i int, m specs.Mount) error {
	o, err := parseOptions(m.Options)
	if err != nil {
		return fmt.Errorf("cannot mount %q: %w", m.Destination, err)
	}
	if !o.bind && m.Type != "bind" || b.isTaken(i) {
		return nil
	}
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if o.recursive {
		flags |= unix.AT_RECURSIVE
	}
	p := b.program
	b.sources[i] = p.Call("open", fmt.Sprintf("%q to mount it at %q", m.Source, m.Destination), unix.SYS_OPEN_TREE,
		launch.Cwd, p.String(b.source(m)), launch.Int(flags)).Result()
	return nil
}

// isTaken tells whether there is a detached mount for the mount already, of Prepare or openSource. The zero Arg is a
// number, and no slot.
func (b *Builder) isTaken(i int) bool { return b.sources[i] != launch.Arg{} }

// bindMount adds the mount of a part of the host's tree.
func (b *Builder) bindMount(m specs.Mount, o options, mount launch.Arg) {
	if isDev(m.Destination) {
		b.ownDev = false
	}
	p := b.program
	b.setAttributes(mount, m.Destination, attributeChange{set: o.set, clear: o.clear})
	b.setAttributes(mount, m.Destination, attributeChange{set: o.setAll, clear: o.clearAll, recursive: true})
	info, err := os.Stat(b.source(m)) // if there is none, the child fails with the reason before it gets here
	target := b.target(m.Destination, err != nil || info.IsDir())
	b.attach(m, mount, target)
	b.propagate(mount, m.Destination, o.propagation)
	p.Close(mount)
}

// attachDirectory adds the mount of a file system that Prepare has made.
func (b *Builder) attachDirectory(m specs.Mount, o options, mount launch.Arg) {
	b.setAttributes(mount, m.Destination, attributeChange{set: o.set})
	b.attach(m, mount, b.target(m.Destination, true))
	b.propagate(mount, m.Destination, o.propagation)
	b.program.Close(mount)
}

// attach adds the attaching of a detached mount to a mount point, which it closes.
func (b *Builder) attach(m specs.Mount, mount, target launch.Arg) {
	b.moveTo(mount, target).Explain(func(errno unix.Errno) error {
		err := fmt.Errorf("cannot mount %q at %q (type %q): %w", m.Source, m.Destination, m.Type, errno)
		if errno == unix.EINVAL && b.config.Detached {
			return fmt.Errorf("%w (without a mount namespace mounts need Linux 6.15)", err)
		}
		if errno == unix.ENOTDIR || errno == unix.EINVAL {
			err = fmt.Errorf("%w (is one of them a directory and the other not?)", err)
		}
		return err
	})
	b.program.Close(target)
}

func (b *Builder) moveTo(mount, target launch.Arg) launch.Op {
	empty := b.empty
	return b.program.Call("attach", "a mount", unix.SYS_MOVE_MOUNT, mount, empty, target, empty,
		launch.Int(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// attributeChange is what mount_setattr is asked for.
type attributeChange struct {
	set, clear, propagation uint64
	recursive               bool
}

func (b *Builder) setAttributes(mount launch.Arg, name string, c attributeChange) {
	if c.set|c.clear|c.propagation == 0 {
		return
	}
	flags := emptyPath
	if c.recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := &unix.MountAttr{Attr_set: c.set, Attr_clr: c.clear, Propagation: c.propagation}
	b.program.Call("set the attributes of", fmt.Sprintf("the mount at %q", name), unix.SYS_MOUNT_SETATTR,
		mount, b.empty, launch.Int(flags), launch.Pin(b.program, attr), launch.Int(unsafe.Sizeof(*attr)))
}

func (b *Builder) propagate(mount launch.Arg, name string, kinds []uint64) {
	for _, kind := range kinds {
		b.setAttributes(mount, name, attributeChange{propagation: kind &^ unix.MS_REC, recursive: kind&unix.MS_REC != 0})
	}
}

func isDev(destination string) bool { return relative(destination) == "dev" }
