package rootfs

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// maskPaths adds the hiding of paths: a file behind /dev/null, a directory behind an empty file system.
func (b *Builder) maskPaths() {
	if len(b.config.Spec.Linux.MaskedPaths) == 0 {
		return
	}
	p := b.program
	null := b.open("open", "/dev/null", unix.O_PATH|unix.O_NOFOLLOW).Result()
	b.verifyDevice(null, `"/dev/null" of the container`, deviceID{kind: unix.S_IFCHR, major: 1, minor: 3})
	nothing := p.NewSlot()
	p.Set(nothing, launch.Int(-1))
	for _, name := range distinct(b.config.Spec.Linux.MaskedPaths) {
		b.maskPath(name, null, nothing)
	}
	p.Close(null)
	p.Call("close", "the empty file system", unix.SYS_CLOSE, nothing).Tolerate()
}

// distinct returns the paths in their order, without those that have come before under the same name.
func distinct(names []string) []string {
	seen := make(map[string]bool, len(names))
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		rel := relative(name)
		again := seen[rel]
		seen[rel] = true
		return again
	})
}

func (b *Builder) maskPath(name string, null, nothing launch.Arg) {
	p := b.program
	quoted := fmt.Sprintf("masked path %q", name)
	absent, file, directory, first, done := p.NewLabel(), p.NewLabel(), p.NewLabel(), p.NewLabel(), p.NewLabel()
	mount := p.NewSlot()
	clone := launch.Int(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | emptyPath)
	hidden := func(errno unix.Errno) error { return fmt.Errorf("cannot hide %s: %w", quoted, errno) }

	target := b.open("open masked path", name, unix.O_PATH).OnError(absent, unix.ENOENT, unix.ENOTDIR).Result()
	// To try with the file whatever it is would do too, but to close a mount that was not used waits for all processors.
	_, kind := b.checkKind(target, quoted, unix.S_IFDIR, unix.ENOTDIR)
	kind.Then(directory).OnError(file, unix.ENOTDIR)

	p.Place(file)
	p.Call("hide", quoted, unix.SYS_OPEN_TREE, null, b.empty, clone).Into(mount)
	b.moveTo(mount, target).Then(done).Explain(hidden)

	p.Place(directory)
	p.Call("hide", quoted, unix.SYS_OPEN_TREE, nothing, b.empty, clone).Into(mount).OnError(first, unix.EBADF)
	b.moveTo(mount, target).Then(done).Explain(hidden)

	p.Place(first) // of all masked directories: its mount is the one that the others clone
	empty := b.newMount(specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: name}, options{set: unix.MOUNT_ATTR_RDONLY}, launch.Int(0))
	b.moveTo(empty, target).Explain(hidden)
	p.Set(nothing, empty)
	p.Call("hide", quoted, unix.SYS_FCNTL, empty, launch.Int(unix.F_DUPFD_CLOEXEC), launch.Int(0)).Into(mount)

	p.Place(done)
	p.Close(mount)
	p.Close(target)
	p.Place(absent)
}

// readOnlyPaths adds a read-only mount of each path upon itself. What is mounted below has its own options.
func (b *Builder) readOnlyPaths() {
	p := b.program
	for _, name := range distinct(b.config.Spec.Linux.ReadonlyPaths) {
		if relative(name) == "." { // where a mount upon it would not be seen
			b.readOnly = append(b.readOnly, finished{b.root, name})
			continue
		}
		absent := p.NewLabel()
		target := b.open("open read-only path", name, unix.O_PATH).OnError(absent, unix.ENOENT, unix.ENOTDIR).Result()
		mount := p.Call("open", fmt.Sprintf("read-only path %q", name), unix.SYS_OPEN_TREE, target, b.empty,
			launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|emptyPath)).Result()
		b.setAttributes(mount, name, attributeChange{set: unix.MOUNT_ATTR_RDONLY})
		b.attach(specs.Mount{Source: name, Destination: name, Type: "bind"}, mount, target)
		p.Close(mount)
		p.Place(absent)
	}
}
