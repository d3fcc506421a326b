package native

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// copier copies a tree with everything that tar knows of it: owners, modes, times, extended attributes, devices, and
// which names are links to one file.
type copier struct {
	from, to string
	links    map[link]string // the copy of a file with several names
	names    []byte          // room for the names of attributes
	value    []byte          // room for one attribute
}

// attributeLimit is the most that the kernel takes as one extended attribute, and as all their names.
const attributeLimit = 64 << 10

type link struct{ dev, ino uint64 }

func copyTree(from, to string) error {
	c := copier{from: from, to: to, links: map[link]string{}, names: make([]byte, attributeLimit), value: make([]byte, attributeLimit)}
	type dir struct {
		path string
		stat *syscall.Stat_t
	}
	var dirs []dir
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t) // always, on Linux
		target := to + strings.TrimPrefix(path, from)
		if info.IsDir() {
			dirs = append(dirs, dir{target, stat})
		}
		if err := c.copy(path, target, stat); err != nil {
			return fmt.Errorf("cannot copy %q: %w", path, err)
		}
		return nil
	})
	// A directory's time changes with every entry made in it, so the times of directories come last.
	for i := len(dirs) - 1; err == nil && i >= 0; i-- {
		err = setTimes(dirs[i].path, dirs[i].stat)
	}
	return err
}

func (c *copier) copy(from, to string, stat *syscall.Stat_t) error {
	kind := stat.Mode & syscall.S_IFMT
	if kind != syscall.S_IFDIR && stat.Nlink > 1 {
		id := link{stat.Dev, stat.Ino}
		if first, ok := c.links[id]; ok {
			return os.Link(first, to)
		}
		c.links[id] = to
	}
	var err error
	switch kind {
	case syscall.S_IFDIR:
		err = os.Mkdir(to, 0o700)
	case syscall.S_IFREG:
		err = copyFile(from, to)
	case syscall.S_IFLNK:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	default:
		err = unix.Mknod(to, stat.Mode, int(stat.Rdev))
	}
	if err != nil {
		return err
	}
	return c.copyMetadata(from, to, stat)
}

// copyMetadata sets the owner before the rest: changing it clears set-user-ID bits and file capabilities.
func (c *copier) copyMetadata(from, to string, stat *syscall.Stat_t) error {
	if err := os.Lchown(to, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	if err := c.copyXattrs(from, to); err != nil {
		return err
	}
	if stat.Mode&syscall.S_IFMT != syscall.S_IFLNK {
		if err := unix.Chmod(to, stat.Mode&^syscall.S_IFMT); err != nil {
			return err
		}
	}
	return setTimes(to, stat)
}

func setTimes(path string, stat *syscall.Stat_t) error {
	times := []unix.Timespec{unix.Timespec(stat.Atim), unix.Timespec(stat.Mtim)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
}

// copyFile shares the blocks where the file system can, and copies them where it can't.
func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(target.Fd()), int(source.Fd())) != nil {
		err = copyData(target, source)
	}
	return errors.Join(err, target.Close())
}

// copyData copies a file and leaves its holes holes.
func copyData(target, source *os.File) error {
	info, err := source.Stat()
	if err != nil {
		return err
	}
	for end := int64(0); ; {
		start, err := unix.Seek(int(source.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no data behind end
			return target.Truncate(info.Size())
		}
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		if end, err = unix.Seek(int(source.Fd()), start, unix.SEEK_HOLE); err != nil {
			return os.NewSyscallError("lseek", err)
		}
		for _, file := range []*os.File{source, target} {
			if _, err := file.Seek(start, io.SeekStart); err != nil {
				return err
			}
		}
		if _, err := io.CopyN(target, source, end-start); err != nil {
			return err
		}
	}
}

func (c *copier) copyXattrs(from, to string) error {
	n, err := unix.Llistxattr(from, c.names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot list attributes: %w", err)
	}
	for name := range strings.SplitSeq(string(c.names[:n]), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(from, name, c.value)
		if err != nil {
			return fmt.Errorf("cannot read attribute %q: %w", name, err)
		}
		if err := unix.Lsetxattr(to, name, c.value[:n], 0); err != nil {
			return fmt.Errorf("cannot set attribute %q: %w", name, err)
		}
	}
	return nil
}
