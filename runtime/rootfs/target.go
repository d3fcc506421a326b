package rootfs

import (
	"fmt"
	"path"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// inRoot opens a path below the container's root, which is what an absolute path or link in it starts from. Links of
// /proc that lead elsewhere are refused.
const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// open adds the opening of a path inside the container's root.
func (b *Builder) open(verb, name string, flags int) launch.Op {
	return b.openAt(verb, name, name, flags)
}

// openAt is open for a path at which is what the user knows by another name.
func (b *Builder) openAt(verb, name, at string, flags int) launch.Op {
	resolve := uint64(inRoot)
	if isKernels(relative(at)) {
		resolve |= unix.RESOLVE_NO_SYMLINKS
	}
	return b.openBy(resolve, verb, name, at, flags)
}

// openBy is openAt with flags of openat2(2) for the way to the path.
func (b *Builder) openBy(resolve uint64, verb, name, at string, flags int) launch.Op {
	wanted, rel := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}, relative(at)
	quoted := fmt.Sprintf("%q", name)
	from, below := b.root, rel
	if inside, ok := strings.CutPrefix(rel, "dev/"); ok && b.inDev {
		from, below = b.dev, inside
	}
	return b.program.Call(verb, quoted, unix.SYS_OPENAT2, from, b.program.String(below), b.how(wanted), launch.Int(unsafe.Sizeof(wanted))).
		Explain(func(errno unix.Errno) error {
			if errno == unix.ELOOP && isKernels(rel) {
				return fmt.Errorf("cannot %s %s: it is a symbolic link in the container's root", verb, quoted)
			}
			return fmt.Errorf("cannot %s %s: %w", verb, quoted, errno)
		})
}

// isKernels tells of the places of the kernel's own files. A link there could lead into a volume, where a neighbour moves
// the files away before they are masked (CVE-2019-19921, CVE-2023-27561).
func isKernels(rel string) bool {
	return rel == "proc" || rel == "sys" || rel == "dev" || rel == "dev/console" || rel == "dev/null"
}

func (b *Builder) how(wanted unix.OpenHow) launch.Arg {
	how, ok := b.hows[wanted]
	if !ok {
		how = launch.Pin(b.program, &wanted)
		b.hows[wanted] = how
	}
	return how
}

// relative makes a container's path one that openat2 takes as starting at the root's descriptor.
func relative(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

// target adds the opening of a mount point, with the creation of what is missing of it, and returns its descriptor.
func (b *Builder) target(name string, directory bool) launch.Arg {
	p := b.program
	at := b.place(name)
	found, safe := p.NewLabel(), p.NewLabel()
	target := p.NewSlot()
	b.openUnlinked(name, at, target, safe)
	b.openAt("open mount point", name, at, unix.O_PATH).Into(target).Then(found).OnError(0, unix.ENOENT)
	parent := b.directory(path.Dir(at))
	quoted := fmt.Sprintf("%q", name)
	base := p.String(path.Base(at))
	if directory {
		p.Call("create mount point", quoted, unix.SYS_MKDIRAT, parent, base, launch.Int(0o755)).Tolerate(unix.EEXIST)
	} else {
		file := p.Call("create mount point", quoted, unix.SYS_OPENAT, parent, base,
			launch.Int(unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC), launch.Int(0o644)).Result()
		p.Close(file)
	}
	b.closeUnlessKept(parent)
	b.openUnlinked(name, at, target, safe)
	b.openAt("open mount point", name, at, unix.O_PATH).Into(target)
	p.Place(found)
	b.guardProc(target, name)
	p.Place(safe)
	return target
}

// openUnlinked adds the opening of a mount point to which no link leads: it is where its name says, and guardProc has nothing
// to find out. If there is a link, or no such file, the next operation has to see.
func (b *Builder) openUnlinked(name, at string, target launch.Arg, safe launch.Label) {
	if relative(at) != relative(name) {
		return // place has followed links
	}
	b.openBy(inRoot|unix.RESOLVE_NO_SYMLINKS, "open mount point", name, at, unix.O_PATH).Into(target).Then(safe).OnError(0, unix.ELOOP, unix.ENOENT)
}

// directory adds the opening of a directory and the creation of it and of its parents, where they are missing.
func (b *Builder) directory(name string) launch.Arg {
	p := b.program
	rel := relative(name)
	switch {
	case rel == ".":
		return b.root
	case rel == "dev" && b.inDev:
		return b.dev
	}
	found := p.NewLabel()
	fd := b.open("open directory", name, unix.O_PATH|unix.O_DIRECTORY).Then(found).OnError(0, unix.ENOENT).Result()
	parent := b.directory(path.Dir("/" + rel))
	p.Call("create directory", fmt.Sprintf("%q", name), unix.SYS_MKDIRAT, parent, p.String(path.Base(rel)), launch.Int(0o755)).Tolerate(unix.EEXIST)
	b.closeUnlessKept(parent)
	b.open("open directory", name, unix.O_PATH|unix.O_DIRECTORY).Into(fd)
	p.Place(found)
	return fd
}

func (b *Builder) closeUnlessKept(fd launch.Arg) {
	if fd != b.root && fd != b.dev {
		b.program.Close(fd)
	}
}
