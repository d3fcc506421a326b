package rootfs

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// A container without a mount namespace lives in the host's, and its mounts must not be there. They are made in another
// namespace, which is left behind for a copy of the container's tree that is attached nowhere:
//
//	unshare ── mounts as ever ── open_tree(root, clone) ── setns back ── chroot into the copy
//
// The kernel takes the copy away with the last process that has this root.

// leaveMounts adds the way into the other namespace.
func (b *Builder) leaveMounts() {
	p := b.program
	b.mounts = p.Call("open", "the host's mount namespace", unix.SYS_OPENAT, launch.Cwd, p.String("/proc/self/ns/mnt"), launch.Int(unix.O_RDONLY|unix.O_CLOEXEC), launch.Int(0)).Result()
	p.Call("create", "a mount namespace to work in", unix.SYS_UNSHARE, launch.Int(unix.CLONE_NEWNS))
}

// enterDetached adds the way back, with another root.
func (b *Builder) enterDetached() {
	p, quoted := b.program, fmt.Sprintf("root file system %q", b.config.Root)
	tree := p.Call("copy", "the container's mounts", unix.SYS_OPEN_TREE, b.root, b.empty,
		launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|emptyPath)).Result()
	b.setAttributes(tree, "/", attributeChange{propagation: unix.MS_PRIVATE, recursive: true})
	p.Call("return to", "the host's mount namespace", unix.SYS_SETNS, b.mounts, launch.Int(unix.CLONE_NEWNS))
	p.Close(b.mounts)
	p.Call("enter", quoted, unix.SYS_FCHDIR, tree)
	p.Call("change the root to", quoted, unix.SYS_CHROOT, p.String("."))
	p.Call("enter", quoted, unix.SYS_CHDIR, p.String("/"))
	p.Close(tree)
}
