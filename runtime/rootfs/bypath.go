package rootfs

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// tooLong tells whether an option is longer than fsconfig takes, as a list of layers of an overlay may be. All options of
// a file system together may be a page long for mount.
func (o *options) tooLong() bool {
	const most = 255
	for _, option := range o.superBlock {
		if _, value, _ := strings.Cut(option, "="); len(value) > most {
			return true
		}
	}
	return false
}

// mountByPath adds the mount of a file system by the older system call, with what its path leads to held fast by making it
// the working directory.
func (b *Builder) mountByPath(m specs.Mount, o options) {
	p := b.program
	quoted := fmt.Sprintf("file system %q at %q", m.Type, m.Destination)
	target := b.target(m.Destination, true)
	p.Call("enter mount point", fmt.Sprintf("%q", m.Destination), unix.SYS_FCHDIR, target)
	p.Close(target)
	data := o.superBlock
	if label := b.config.Spec.Linux.MountLabel; label != "" && takesLabel(m.Type) {
		data = append(data[:len(data):len(data)], fmt.Sprintf("context=%q", label))
	}
	p.Call("mount", quoted, unix.SYS_MOUNT, p.String(m.Source), p.String("."), p.String(m.Type), launch.Int(o.mountFlags()), p.String(strings.Join(data, ",")))
	if len(o.propagation) > 0 {
		mount := b.open("open mount point", m.Destination, unix.O_PATH).Result()
		b.propagate(mount, m.Destination, o.propagation)
		p.Close(mount)
	}
}

// mountFlags are the attributes as mount has them.
func (o *options) mountFlags() uintptr {
	set := o.set | o.setAll
	flags := uintptr(set & (unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC)) // the same bits
	for _, other := range []struct {
		attribute uint64
		flag      uintptr
	}{
		{unix.MOUNT_ATTR_NOATIME, unix.MS_NOATIME},
		{unix.MOUNT_ATTR_STRICTATIME, unix.MS_STRICTATIME},
		{unix.MOUNT_ATTR_NODIRATIME, unix.MS_NODIRATIME},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, unix.MS_NOSYMFOLLOW},
	} {
		if set&other.attribute != 0 {
			flags |= other.flag
		}
	}
	for _, name := range o.superFlags {
		flags |= map[string]uintptr{"sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC, "lazytime": unix.MS_LAZYTIME, "mand": unix.MS_MANDLOCK}[name]
	}
	if o.version {
		flags |= unix.MS_I_VERSION
	}
	return flags
}

// remount adds the change of a mount that is there already: of its attributes, which are replaced, and unless it is of a
// bind mount of the options of its file system.
func (b *Builder) remount(m specs.Mount, o options) {
	p := b.program
	quoted := fmt.Sprintf("the mount at %q", m.Destination)
	mount := b.open("open mount point", m.Destination, unix.O_PATH).Result()
	o.set, o.clear = o.set|o.setAll, o.clear|o.clearAll|unix.MOUNT_ATTR_RDONLY&^(o.set|o.setAll)
	b.replaceAttributes(mount, m.Destination, o)
	if !o.bind && len(o.superFlags)+len(o.superBlock) > 0 {
		context := p.Call("change", quoted, unix.SYS_FSPICK, mount, b.empty, launch.Int(unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)).Result()
		b.configure(context, m, append(o.superFlags[:len(o.superFlags):len(o.superFlags)], o.superBlock...))
		p.Call("change", quoted, unix.SYS_FSCONFIG, context, launch.Int(unix.FSCONFIG_CMD_RECONFIGURE), launch.Int(0), launch.Int(0), launch.Int(0))
		p.Close(context)
	}
	b.propagate(mount, m.Destination, o.propagation)
	p.Close(mount)
}
