package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// An ordinary user can make a file system in the container's user namespace only, where the child is and no Go code runs.
// What is to be copied into one is looked up beforehand and written down as operations, file by file.

// entry is a file to copy.
type entry struct {
	name   string
	stat   unix.Stat_t
	target string // of a link
	below  []entry
}

// plan lists what is in a directory. The child finds it again by the names.
func plan(dir int, left *int) ([]entry, error) {
	own, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(own), "directory")
	defer func() { _ = file.Close() }()
	names, err := file.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	if *left -= len(names); *left < 0 {
		return nil, errors.New("there are too many files for an ordinary user's container")
	}
	entries := make([]entry, len(names))
	for i, name := range names {
		if entries[i], err = planEntry(own, name, left); err != nil {
			return nil, &fs.PathError{Op: "look at", Path: name, Err: err}
		}
	}
	return entries, nil
}

func planEntry(dir int, name string, left *int) (e entry, err error) {
	e.name = name
	if err := unix.Fstatat(dir, name, &e.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return e, err
	}
	switch e.stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, target)
		e.target = string(target[:max(n, 0)])
		return e, err
	case unix.S_IFDIR:
		below, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return e, err
		}
		defer func() { _ = unix.Close(below) }()
		e.below, err = plan(below, left)
		return e, err
	}
	return e, nil
}

// planCopy looks up what copyByChild will copy.
func (b *Builder) planCopy(destination string) error {
	hidden, err := b.openHidden(destination)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(hidden) }()
	left := 5000
	if b.plans == nil {
		b.plans = map[string][]entry{}
	}
	if b.plans[destination], err = plan(hidden, &left); err != nil {
		return fmt.Errorf("cannot copy what is there into it: %w", err)
	}
	return nil
}

// copyByChild adds the copying of what was planned for a file system.
func (b *Builder) copyByChild(name string, mount launch.Arg, entries []entry) {
	if len(entries) == 0 {
		return
	}
	from := b.open("open", name, unix.O_RDONLY|unix.O_DIRECTORY).Result()
	c := copying{b, [2]launch.Arg{b.program.NewSlot(), b.program.NewSlot()}, name}
	c.add(entries, from, mount)
	b.program.Close(from)
}

// copying is the adding of copies, with two slots for the files that are open.
type copying struct {
	*Builder
	files [2]launch.Arg
	at    string
}

func (c copying) add(entries []entry, from, to launch.Arg) {
	p := c.program
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	for _, e := range entries {
		name, quoted := p.String(e.name), fmt.Sprintf("%q", path.Join(c.at, e.name))
		open := func(dir launch.Arg, flags int) launch.Op {
			return p.Call("copy", quoted, unix.SYS_OPENAT, dir, name, launch.Int(flags), launch.Int(0o600))
		}
		switch e.stat.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			p.Call("copy", quoted, unix.SYS_MKDIRAT, to, name, launch.Int(0o700))
			source, target := open(from, flags|unix.O_DIRECTORY).Result(), open(to, flags|unix.O_DIRECTORY).Result()
			below := c
			below.at = path.Join(c.at, e.name)
			below.add(e.below, source, target)
			p.Close(source)
			p.Close(target)
		case unix.S_IFREG:
			open(from, flags|unix.O_NONBLOCK).Into(c.files[0])
			open(to, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC).Into(c.files[1])
			const most = 0x7ffff000 // of one call
			for left := e.stat.Size; left > 0; left -= most {
				p.Call("copy", quoted, unix.SYS_SENDFILE, c.files[1], c.files[0], launch.Int(0), launch.Int(min(left, most)))
			}
			p.Close(c.files[0])
			p.Close(c.files[1])
		case unix.S_IFLNK:
			p.Call("copy", quoted, unix.SYS_SYMLINKAT, p.String(e.target), to, name)
		case unix.S_IFIFO:
			p.Call("copy", quoted, unix.SYS_MKNODAT, to, name, launch.Int(e.stat.Mode), launch.Int(0))
		default:
			continue // a socket, or a device that the user may not make
		}
		c.addOwner(e, to, name, quoted)
	}
}

// addOwner gives the copy the owner, if the container knows it, the mode and the times of the file.
func (c copying) addOwner(e entry, to, name launch.Arg, quoted string) {
	p, linux := c.program, c.config.Spec.Linux
	p.Call("copy", quoted, unix.SYS_FCHOWNAT, to, name, launch.Int(inside(linux.UIDMappings, e.stat.Uid)), launch.Int(inside(linux.GIDMappings, e.stat.Gid)),
		launch.Int(unix.AT_SYMLINK_NOFOLLOW))
	if e.stat.Mode&unix.S_IFMT != unix.S_IFLNK { // after the owner, whose change takes set-user-id bits away
		p.Call("copy", quoted, unix.SYS_FCHMODAT, to, name, launch.Int(e.stat.Mode&0o7777))
	}
	p.Call("copy", quoted, unix.SYS_UTIMENSAT, to, name, launch.PinSlice(p, []unix.Timespec{e.stat.Atim, e.stat.Mtim}), launch.Int(unix.AT_SYMLINK_NOFOLLOW))
}

// inside returns an id of the host's as the container has it, or -1, which leaves what there is.
func inside(mappings []specs.LinuxIDMapping, id uint32) int {
	for _, m := range mappings {
		if id >= m.HostID && id-m.HostID < m.Size {
			return int(m.ContainerID + id - m.HostID)
		}
	}
	return -1
}
