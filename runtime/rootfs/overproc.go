package rootfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// shown are the files of /proc that may be replaced, as lxcfs does: they tell of the machine, and nobody trusts them.
var shown = [...]string{
	"cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime", "sys/crypto/fips_enabled", "sys/kernel/ns_last_pid",
}

// mayReplace tells whether the configuration may mount at a path, as it is written, whatever the path is in /proc.
func mayReplace(rel string) bool {
	inside, isInside := strings.CutPrefix(rel, "proc/")
	return isInside && slices.Contains(shown[:], inside)
}

// guardProc adds the refusal of a mount point that is in the container's /proc, wherever its name has led: an image can have
// a link into /proc where a volume is to be mounted. refuseOverProc has looked at the names of /proc itself. Other mounts
// of a procfs, as of the host's for a program that watches it, may be covered.
func (b *Builder) guardProc(target launch.Arg, name string) {
	rel := relative(name)
	if rel == "proc" || mayReplace(rel) {
		return
	}
	p, quoted := b.program, fmt.Sprintf("mount point %q", name)
	if b.looks == nil {
		b.looks = &looks{}
		launch.Pin(p, b.looks)
	}
	at := func(field uintptr) launch.Arg { return launch.Int(uintptr(unsafe.Pointer(b.looks)) + field) }
	elsewhere := p.NewLabel()
	p.Call("check", quoted, unix.SYS_FSTATFS, target, at(unsafe.Offsetof(b.looks.fileSystem)))
	p.Expect("check", quoted, at(unsafe.Offsetof(b.looks.fileSystem)), launch.Masked{Mask: 1<<32 - 1, Value: unix.PROC_SUPER_MAGIC, Errno: unix.ENOTSUP}).
		OnError(elsewhere, unix.ENOTSUP)
	const noMask = 0 // the numbers of the device are always there
	look := func(dir launch.Arg, name string, flags int, to uintptr) launch.Op {
		return p.Call("check", quoted, unix.SYS_STATX, dir, p.String(name), launch.Int(flags), launch.Int(noMask), at(to))
	}
	device := unsafe.Offsetof(unix.Statx_t{}.Dev_major) // and the minor number behind it
	look(b.root, "proc", unix.AT_SYMLINK_NOFOLLOW, unsafe.Offsetof(b.looks.proc)).OnError(elsewhere, unix.ENOENT)
	look(target, "", emptyPath, unsafe.Offsetof(b.looks.target))
	proc := p.Load(at(unsafe.Offsetof(b.looks.proc)+device), 0, ^uint64(0))
	p.ExpectSame("check", quoted, at(unsafe.Offsetof(b.looks.target)+device), proc, unix.EXDEV).OnError(elsewhere, unix.EXDEV)
	p.Fail("mount at", quoted, unix.EPERM).Explain(func(unix.Errno) error {
		return fmt.Errorf("cannot mount at %q: it is inside of /proc, to which a link in the container's root leads", name)
	})
	p.Place(elsewhere)
}

// looks is where the child finds what guardProc looks at.
type looks struct {
	fileSystem   unix.Statfs_t
	proc, target unix.Statx_t
}

// refuseOverProc refuses what would pass for the kernel's own files: programs in the container trust /proc, be it for what
// they may do themselves.
func (b *Builder) refuseOverProc(m specs.Mount) error {
	if !strings.Contains(m.Destination, "proc") {
		return nil
	}
	rel := relative(m.Destination)
	switch {
	case strings.HasPrefix(rel, "proc/") && !mayReplace(rel):
		return errors.New("it is inside of /proc")
	case rel != "proc" || m.Type == "proc":
		return nil
	}
	switch o := parseOptions(m.Options); {
	case o.remount:
		return nil
	case isBound(m, o):
		var stat unix.Statfs_t
		if err := unix.Statfs(b.source(m), &stat); err != nil || stat.Type == unix.PROC_SUPER_MAGIC {
			return nil // the child says what is wrong with it
		}
	}
	return errors.New("it is not of type \"proc\"")
}
