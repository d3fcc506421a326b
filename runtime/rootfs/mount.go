package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

const emptyPath = unix.AT_EMPTY_PATH

// mount adds one mount of the configuration: made detached, given its attributes, and only then attached.
func (b *Builder) mount(i int, m specs.Mount) {
	o := parseOptions(m.Options)
	if from, later := b.provided[i]; later {
		b.openProvided(i, m, o, from)
	} else if !b.config.OwnUser {
		b.openSource(i, m, o)
	}
	switch {
	case o.remount:
		b.remount(m, o)
	case o.copyUp:
		b.join()
		b.fileSystem(m, o, b.sources[i])
	case b.isTaken(i):
		b.bindMount(m, o, b.sources[i])
	case isCgroup(m):
		b.join()
		b.cgroupMount(m, o)
	case o.tooLong():
		b.join()
		b.mountByPath(m, o)
	default:
		if !slices.Contains([]string{"proc", "sysfs", "devpts", "mqueue", "tmpfs"}, m.Type) || len(b.plans[m.Destination]) > 0 {
			b.join()
		}
		b.fileSystem(m, o, launch.Arg{})
	}
}

// join adds the joining of the cgroup, once.
func (b *Builder) join() {
	if join := b.config.Join; join != nil {
		b.config.Join = nil
		join()
	}
}

// fileSystem adds the mount of a file system, which Prepare may have made.
func (b *Builder) fileSystem(m specs.Mount, o options, mount launch.Arg) {
	o.set, o.setAll = o.set|o.setAll, 0
	later := o.set & unix.MOUNT_ATTR_RDONLY
	if m.Type != "tmpfs" && !isDev(m.Destination) {
		later = 0
	}
	o.set &^= later
	if mount == (launch.Arg{}) {
		mount = b.newMount(m, o, b.modeFor(m, o))
		b.copyByChild(m.Destination, mount, b.plans[m.Destination])
	} else {
		b.setAttributes(mount, m.Destination, attributeChange{set: o.set})
	}
	b.attach(m, mount, b.target(m.Destination, true))
	b.propagate(mount, m.Destination, o.propagation)
	if isDev(m.Destination) {
		b.dev = b.program.Call("keep", `"/dev"`, unix.SYS_FCNTL, mount, launch.Int(unix.F_DUPFD_CLOEXEC), launch.Int(0)).Result()
		b.inDev = b.ownDev
	}
	if later != 0 { // devices and mount points come first
		b.readOnly = append(b.readOnly, finished{mount, m.Destination})
	}
	b.leave(m, mount, later != 0)
}

// leave adds the end of the work on a mount. One on the root itself takes its place.
func (b *Builder) leave(m specs.Mount, mount launch.Arg, inUse bool) {
	switch {
	case relative(m.Destination) == ".":
		b.program.Close(b.root)
		b.root = mount
	case !inUse:
		b.program.Close(mount)
	}
}

// finished is a mount that is read-only once all is in it.
type finished struct {
	mount launch.Arg
	name  string
}

// modeFor adds the finding out of the mode that a new tmpfs is told: that of the directory that it will hide, if there is
// one and the configuration has no other. It returns the address of the mode's text, or 0.
func (b *Builder) modeFor(m specs.Mount, o options) launch.Arg {
	if m.Type != "tmpfs" || o.has("mode") {
		return launch.Int(0)
	}
	p, name := b.program, m.Destination
	absent := p.NewLabel()
	text := p.String("1777") // as the kernel has it
	hidden := b.open("open mount point", name, unix.O_PATH).OnError(absent, unix.ENOENT).Result()
	stat := &unix.Statx_t{}
	buffer := launch.Pin(p, stat)
	p.Call("look at", fmt.Sprintf("mount point %q", name), unix.SYS_STATX, hidden, b.empty, launch.Int(emptyPath), launch.Int(unix.STATX_MODE), buffer)
	const upperHalf = 32 // of the 64 bits from the gid on
	mode := p.Load(launch.Int(uintptr(unsafe.Pointer(stat))+unsafe.Offsetof(stat.Gid)), upperHalf, 0o7777)
	p.StoreOctal(text, mode)
	p.Close(hidden)
	p.Place(absent)
	return text
}

// newMount adds the making of a detached mount of a file system and returns its descriptor. The file system is told the
// mode at an address, unless that is 0.
func (b *Builder) newMount(m specs.Mount, o options, mode launch.Arg) launch.Arg {
	p := b.program
	name := fmt.Sprintf("file system %q for %q", m.Type, m.Destination)
	context := p.Call("open", name, unix.SYS_FSOPEN, p.String(m.Type), launch.Int(unix.FSOPEN_CLOEXEC)).
		Explain(func(errno unix.Errno) error {
			if errno == unix.ENODEV {
				return fmt.Errorf("cannot mount %q: the kernel has no file system %q", m.Destination, m.Type)
			}
			return fmt.Errorf("cannot open %s: %w", name, errno)
		}).Result()
	if m.Source != "" {
		b.configure(context, m, []string{"source=" + m.Source})
	}
	b.configure(context, m, o.flagsOf(m.Type))
	if mode != (launch.Arg{}) {
		p.Call("set", fmt.Sprintf("the mode of the mount at %q", m.Destination), unix.SYS_FSCONFIG,
			context, launch.Int(unix.FSCONFIG_SET_STRING), p.String("mode"), mode, launch.Int(0))
	}
	b.configure(context, m, o.superBlock)
	if label := b.config.Spec.Linux.MountLabel; label != "" && takesLabel(m.Type) {
		b.configure(context, m, []string{"context=" + label})
	}
	p.Call("create", name, unix.SYS_FSCONFIG, context, launch.Int(unix.FSCONFIG_CMD_CREATE), launch.Int(0), launch.Int(0), launch.Int(0))
	mount := p.Call("mount", name, unix.SYS_FSMOUNT, context, launch.Int(unix.FSMOUNT_CLOEXEC), launch.Int(o.set|o.setAll)).Result()
	p.Close(context)
	return mount
}

// configure adds the telling of options to a file system.
func (b *Builder) configure(context launch.Arg, m specs.Mount, options []string) {
	p := b.program
	for _, option := range options {
		command, argument := unix.FSCONFIG_SET_FLAG, launch.Int(0)
		key, value, hasValue := strings.Cut(option, "=")
		if hasValue {
			command, argument = unix.FSCONFIG_SET_STRING, p.String(value)
		}
		p.Call("set", fmt.Sprintf("option %q of the mount at %q", option, m.Destination), unix.SYS_FSCONFIG,
			context, launch.Int(command), p.String(key), argument, launch.Int(0))
	}
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

// flagsOf returns the flags for a file system of the type.
func (o *options) flagsOf(kind string) []string {
	flags := o.superFlags
	if o.set&unix.MOUNT_ATTR_RDONLY != 0 && !isVirtual(kind) {
		flags = append(slices.Clip(flags), "ro") // or the kernel would write to the disk
	}
	if o.version && strings.HasPrefix(kind, "ext") { // all others that know it always have it
		flags = append(slices.Clip(flags), "i_version")
	}
	return flags
}

// isVirtual tells of the file systems of every container, which are in memory.
func isVirtual(kind string) bool { return kind == "tmpfs" || kind == "devpts" || !takesLabel(kind) }

// source is where a bind mount comes from.
func (b *Builder) source(m specs.Mount) string {
	if filepath.IsAbs(m.Source) {
		return m.Source
	}
	return filepath.Join(b.config.Bundle, m.Source)
}

// openSource adds the taking of a part of the host's tree, if the mount is of that kind.
func (b *Builder) openSource(i int, m specs.Mount, o options) {
	if !isBound(m, o) || b.isTaken(i) {
		return
	}
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if o.recursive {
		flags |= unix.AT_RECURSIVE
	}
	p := b.program
	b.sources[i] = p.Call("open", fmt.Sprintf("%q to mount it at %q", m.Source, m.Destination), unix.SYS_OPEN_TREE,
		launch.Cwd, p.String(b.source(m)), launch.Int(flags)).Result()
}

// isTaken tells whether there is a detached mount for the mount already, of Prepare or openSource. The zero Arg is a
// number, and no slot.
func (b *Builder) isTaken(i int) bool { return b.sources[i] != launch.Arg{} }

// bindMount adds the mount of a part of the host's tree.
func (b *Builder) bindMount(m specs.Mount, o options, mount launch.Arg) {
	if isDev(m.Destination) {
		b.ownDev, b.inDev = false, false
	}
	b.replaceAttributes(mount, m.Destination, o)
	b.setAttributes(mount, m.Destination, attributeChange{set: o.setAll, clear: o.clearAll, recursive: true})
	source := b.hostSource(m)
	info, err := os.Stat(source) // if there is none, the child fails with the reason before it gets here
	target := b.target(m.Destination, err != nil || info.IsDir())
	b.placed[len(b.placed)-1].source = source
	b.attach(m, mount, target)
	b.propagate(mount, m.Destination, o.propagation)
	b.leave(m, mount, false)
}

// attach adds the attaching of a detached mount to a mount point, which it closes.
func (b *Builder) attach(m specs.Mount, mount, target launch.Arg) {
	b.moveTo(mount, target).Explain(func(errno unix.Errno) error {
		err := fmt.Errorf("cannot mount %q at %q (type %q): %w", m.Source, m.Destination, m.Type, errno)
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

// replaceAttributes gives a mount the attributes of its options instead of those that it has, if there are any. In a user
// namespace the kernel may hold on to what the mount has, which is added to then.
func (b *Builder) replaceAttributes(mount launch.Arg, name string, o options) {
	const all = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW
	if o.set|o.clear|o.atime == 0 {
		return
	}
	locked, done := b.program.NewLabel(), b.program.NewLabel()
	b.setAttributes(mount, name, attributeChange{set: o.set, clear: o.clear | all&^o.set}).OnError(locked, unix.EPERM).Then(done)
	b.program.Place(locked)
	// The kernel does not lock nosymfollow.
	b.setAttributes(mount, name, attributeChange{set: o.set, clear: o.clear | unix.MOUNT_ATTR_NOSYMFOLLOW&^o.set})
	b.program.Place(done)
}

// setAttributes returns the operation, if there is one to add.
func (b *Builder) setAttributes(mount launch.Arg, name string, c attributeChange) launch.Op {
	if c.set|c.clear|c.propagation == 0 {
		return launch.Op{}
	}
	flags := emptyPath
	if c.recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := &unix.MountAttr{Attr_set: c.set, Attr_clr: c.clear, Propagation: c.propagation}
	op := b.program.Call("set the attributes of", fmt.Sprintf("the mount at %q", name), unix.SYS_MOUNT_SETATTR,
		mount, b.empty, launch.Int(flags), launch.Pin(b.program, attr), launch.Int(unsafe.Sizeof(*attr)))
	if b.config.OwnUser {
		op.Explain(func(errno unix.Errno) error {
			if errno != unix.EPERM {
				return nil
			}
			return fmt.Errorf("cannot set the attributes of the mount at %q: a user namespace may not change how the host has mounted it: %w", name, errno)
		})
	}
	return op
}

func (b *Builder) propagate(mount launch.Arg, name string, kinds []uint64) {
	for _, kind := range kinds {
		b.setAttributes(mount, name, attributeChange{propagation: kind &^ unix.MS_REC, recursive: kind&unix.MS_REC != 0})
	}
}

func isDev(destination string) bool { return relative(destination) == "dev" }
