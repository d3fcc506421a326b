package rootfs

import (
	"fmt"
	"path"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// isolated is how a container's copy of the host's mounts usually hangs together with the host's: it follows them, and
// they don't follow it.
const isolated = unix.MS_SLAVE | unix.MS_REC

// choosePropagation understands linux.rootfsPropagation. It is about the copy of the host's mounts, from which binds take
// over what they have, and in the end about the container's root.
func (b *Builder) choosePropagation() error {
	b.shared = isolated
	if name := b.config.Spec.Linux.RootfsPropagation; name != "" && !b.config.Detached {
		kind, ok := propagation(name)
		if !ok {
			return fmt.Errorf("linux.rootfsPropagation: %q is no propagation", name)
		}
		b.shared = kind
	}
	return nil
}

// separate adds the cutting of ties with the host's mounts, as far as the configuration wants it.
func (b *Builder) separate() {
	kind := b.shared
	if kind&unix.MS_UNBINDABLE != 0 {
		kind = isolated // nothing could be bound any more
	}
	b.setPropagation(launch.Cwd, b.program.String("/"), kind)
	if !b.staysTied() {
		return
	}
	// The mount that has the root's directory must not be shared, or the root would be mounted on the host as well.
	dir := path.Clean(b.config.Root)
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	found := b.program.NewLabel()
	for ; ; dir = path.Dir(dir) {
		op := b.setPropagation(launch.Cwd, b.program.String(dir), unix.MS_PRIVATE)
		if dir == "/" {
			break
		}
		op.Then(found).OnError(0, unix.EINVAL) // it is no mount point
	}
	b.program.Place(found)
}

// staysTied tells whether mounts of the container's mount namespace may reach the host.
func (b *Builder) staysTied() bool { return b.shared&unix.MS_REC == 0 || b.shared&unix.MS_SHARED != 0 }

func (b *Builder) setPropagation(at, name launch.Arg, kind uint64) launch.Op {
	attr := &unix.MountAttr{Propagation: kind &^ unix.MS_REC}
	flags := emptyPath
	if kind&unix.MS_REC != 0 {
		flags |= unix.AT_RECURSIVE
	}
	return b.program.Call("separate", "the host's mounts from the container's", unix.SYS_MOUNT_SETATTR, at, name,
		launch.Int(flags), launch.Pin(b.program, attr), launch.Int(unsafe.Sizeof(*attr)))
}

// holdOldRoot returns what adds the cutting of the last ties, so that the host's mounts don't go away with the container's
// copy of them.
func (b *Builder) holdOldRoot() (untie func()) {
	if !b.staysTied() {
		return func() {}
	}
	root := b.program.Call("open", "the host's root", unix.SYS_OPENAT, launch.Cwd, b.program.String("/"),
		launch.Int(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC), launch.Int(0)).Result()
	return func() {
		b.setPropagation(root, b.empty, isolated)
		b.program.Close(root)
	}
}
