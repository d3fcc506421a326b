package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
	"github.com/berthd/berth/internal/tree"
)

// Populate copies the directory at path inside the file system at root into the volume, if the volume is empty.
// Symbolic links in path are resolved inside root. Others can use the volume when all of it is there, or nothing.
func (s *Service) Populate(ctx context.Context, name, root, path string) error {
	unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	r := s.get(name)
	if r == nil {
		return noSuchVolume(name)
	}
	if r, err = s.emptyHalfPopulated(r); err != nil {
		return err
	}
	target, err := os.Open(s.data(name))
	if err != nil {
		return fmt.Errorf("cannot open volume %q: %w", name, err)
	}
	defer func() { _ = target.Close() }()
	if _, err := target.Readdirnames(1); !errors.Is(err, io.EOF) {
		return err // nil: it has content of its own
	}
	source, err := openInRoot(root, path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open %q of the image for volume %q: %w", path, name, err)
	}
	defer func() { _ = source.Close() }()
	started := *r
	started.Populating = true
	if err := s.put(&started); err != nil {
		return err
	}
	c := &copier{ctx: ctx, inodes: map[inode]string{}, top: target}
	err = c.directory(source, target, "")
	if err == nil {
		// The files must not reach the disk after the record that says they are there.
		err = os.NewSyscallError("syncfs", unix.Syncfs(int(target.Fd())))
	}
	if err != nil {
		_, undone := s.emptyHalfPopulated(&started)
		return errors.Join(fmt.Errorf("cannot copy %q of the image into volume %q: %w", path, name, err), undone)
	}
	finished := *r
	return s.put(&finished)
}

// emptyHalfPopulated empties a volume whose population failed, or was cut off by a crash, and returns its record. Others are left alone.
// The directory itself stays: a container may have it mounted.
func (s *Service) emptyHalfPopulated(r *record) (*record, error) {
	if !r.Populating {
		return r, nil
	}
	data := s.data(r.Name)
	entries, err := os.ReadDir(data)
	if err != nil {
		return nil, fmt.Errorf("cannot empty volume %q: %w", r.Name, err)
	}
	for _, entry := range entries {
		if err := tree.Remove(context.Background(), filepath.Join(data, entry.Name())); err != nil {
			return nil, fmt.Errorf("cannot empty volume %q: %w", r.Name, err)
		}
	}
	if err := errors.Join(os.Chown(data, 0, 0), os.Chmod(data, 0o755)); err != nil {
		return nil, fmt.Errorf("cannot empty volume %q: %w", r.Name, err)
	}
	clean := *r
	clean.Populating = false
	return &clean, s.put(&clean)
}

// openInRoot opens a directory of a file system that strangers made.
func openInRoot(root, path string) (*os.File, error) {
	top, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = top.Close() }()
	fd, err := sys.Openat2(int(top.Fd()), path, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// copier copies a tree, one directory handle after the other: no path of the image is ever walked twice.
type copier struct {
	ctx context.Context //nolint:containedctx // it lives as long as one call
	// inodes are the files with several links that have been copied, with the path of the first below top.
	inodes map[inode]string
	top    *os.File
}

type inode struct{ dev, ino uint64 }

// directory copies what is in source, and source's own metadata. name is target's path below the top.
func (c *copier) directory(source, target *os.File, name string) error {
	names, err := source.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, base := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.entry(source, target, base, strings.TrimPrefix(name+"/"+base, "/")); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(source.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	return c.metadata(source, target, &st)
}

func (c *copier) entry(source, target *os.File, base, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(source.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		first, copied := c.inodes[inode{st.Dev, st.Ino}]
		if copied {
			err := unix.Linkat(int(c.top.Fd()), first, int(target.Fd()), base, 0)
			return pathError("link", name, err)
		}
		c.inodes[inode{st.Dev, st.Ino}] = name
	}
	switch kind {
	case unix.S_IFDIR:
		return c.subdirectory(source, target, base, name)
	case unix.S_IFREG:
		return c.file(source, target, base, name, &st)
	case unix.S_IFLNK:
		return c.link(source, target, base, name, &st)
	case unix.S_IFSOCK:
		return nil // means nothing without its process
	}
	if err := unix.Mknodat(int(target.Fd()), base, st.Mode, int(st.Rdev)); err != nil {
		return pathError("mknod", name, err)
	}
	if err := unix.Fchownat(int(target.Fd()), base, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("chown", name, err)
	}
	if err := unix.Fchmodat(int(target.Fd()), base, st.Mode&0o7777, 0); err != nil {
		return pathError("chmod", name, err)
	}
	return pathError("utimensat", name, setTimes(target, base, &st))
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}

func openAt(dir *os.File, base string, flags int, mode uint32) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return nil, pathError("open", base, err)
	}
	return os.NewFile(uintptr(fd), base), nil
}

func (c *copier) subdirectory(source, target *os.File, base, name string) error {
	from, err := openAt(source, base, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	if err := unix.Mkdirat(int(target.Fd()), base, 0o700); err != nil {
		return pathError("mkdir", name, err)
	}
	to, err := openAt(target, base, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	return c.directory(from, to, name)
}

func (c *copier) file(source, target *os.File, base, name string, st *unix.Stat_t) error {
	from, err := openAt(source, base, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	to, err := openAt(target, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = to.ReadFrom(from) // copy_file_range, where the file systems can
	if err == nil {
		err = c.metadata(from, to, st)
	}
	if err := errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("cannot copy %q: %w", name, err)
	}
	return nil
}

func (c *copier) link(source, target *os.File, base, name string, st *unix.Stat_t) error {
	buffer := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(source.Fd()), base, buffer)
	if err != nil {
		return pathError("readlink", name, err)
	}
	if err := unix.Symlinkat(string(buffer[:n]), int(target.Fd()), base); err != nil {
		return pathError("symlink", name, err)
	}
	if err := unix.Fchownat(int(target.Fd()), base, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("chown", name, err)
	}
	return pathError("utimensat", name, setTimes(target, base, st))
}

// metadata gives an open file or directory the owner, mode, attributes and times of another.
func (c *copier) metadata(source, target *os.File, st *unix.Stat_t) error {
	fd := int(target.Fd())
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	if err := copyAttributes(int(source.Fd()), fd); err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), times, 0))
}

func setTimes(dir *os.File, base string, st *unix.Stat_t) error {
	return unix.UtimesNanoAt(int(dir.Fd()), base, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyAttributes copies what belongs to the file. Those of overlayfs and of security modules belong to where it lay.
func copyAttributes(source, target int) error {
	size, err := unix.Flistxattr(source, nil)
	if err != nil || size == 0 {
		return ignoreUnsupported(err)
	}
	list := make([]byte, size)
	if size, err = unix.Flistxattr(source, list); err != nil {
		return ignoreUnsupported(err)
	}
	for key := range strings.SplitSeq(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00") {
		if key != "security.capability" && !strings.HasPrefix(key, "user.") && !strings.HasPrefix(key, "system.posix_acl_") {
			continue
		}
		length, err := unix.Fgetxattr(source, key, nil)
		if err != nil {
			return os.NewSyscallError("fgetxattr "+key, err)
		}
		value := make([]byte, length)
		if length, err = unix.Fgetxattr(source, key, value); err != nil {
			return os.NewSyscallError("fgetxattr "+key, err)
		}
		if err := ignoreUnsupported(unix.Fsetxattr(target, key, value[:length], 0)); err != nil {
			return fmt.Errorf("cannot set attribute %q: %w", key, err)
		}
	}
	return nil
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}
