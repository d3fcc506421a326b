package tree

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Usage returns how many bytes and inodes the tree at path takes on disk. A file with several links in it counts once.
// What disappears while it is measured is not counted, nor what is mounted inside the tree.
func Usage(ctx context.Context, path string) (size, inodes int64, err error) {
	m := &measurement{ctx: ctx, seen: map[inode]bool{}}
	defer m.closeAll()
	if err := m.run(path); err != nil {
		return 0, 0, fmt.Errorf("cannot measure %q: %w", path, err)
	}
	return m.size, m.inodes, nil
}

// FileUsage is Usage without directories: an empty tree of them takes no room.
func FileUsage(ctx context.Context, path string) (size int64, err error) {
	m := &measurement{ctx: ctx, seen: map[inode]bool{}, filesOnly: true}
	defer m.closeAll()
	if err := m.run(path); err != nil {
		return 0, fmt.Errorf("cannot measure %q: %w", path, err)
	}
	return m.size, nil
}

type inode struct{ dev, ino uint64 }

// measurement is one call of Usage. It keeps the last directories of a branch open and of those above them where to go
// on reading: they are opened again through "..".
type measurement struct {
	ctx    context.Context //nolint:containedctx // it lives as long as one call
	stack  []level
	opened int // the first level of the stack that is open
	seen   map[inode]bool

	filesOnly    bool
	size, inodes int64
}

// level is a directory of the branch that is being read.
type level struct {
	dir      *dir // nil while it is closed
	inode    inode
	position int64
}

func (m *measurement) run(path string) error {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("lstat", err)
	}
	m.count(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	m.push(&dir{fd: fd}, inode{st.Dev, st.Ino})
	for len(m.stack) > 0 {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		if err := m.step(); err != nil {
			return err
		}
	}
	return nil
}

// step reads one entry of the deepest directory.
func (m *measurement) step() error {
	at := &m.stack[len(m.stack)-1]
	e, more, err := at.dir.next()
	if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: the directory was removed
		return err
	}
	if !more {
		return m.ascend()
	}
	at.position = e.next
	var st unix.Stat_t
	err = unix.Fstatat(at.dir.fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: e.name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		m.count(&st)
		return nil
	}
	child, err := openAt(at.dir.fd, e.name)
	if replaced(err) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: e.name, Err: err}
	}
	if err := unix.Fstat(child.fd, &st); err != nil {
		child.close()
		return &os.PathError{Op: "stat", Path: e.name, Err: err}
	}
	m.count(&st)
	m.push(child, inode{st.Dev, st.Ino})
	return nil
}

// replaced tells whether what was a directory a moment ago is none any more, or is another mount.
func replaced(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV)
}

func (m *measurement) count(st *unix.Stat_t) {
	if m.filesOnly && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return
	}
	if id := (inode{st.Dev, st.Ino}); st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if m.seen[id] {
			return
		}
		m.seen[id] = true
	}
	m.size += st.Blocks * 512
	m.inodes++
}

func (m *measurement) push(d *dir, id inode) {
	m.stack = append(m.stack, level{dir: d, inode: id})
	if len(m.stack)-m.opened > window {
		m.stack[m.opened].dir.close()
		m.stack[m.opened].dir = nil
		m.opened++
	}
}

// ascend leaves the deepest directory, which is read.
func (m *measurement) ascend() error {
	last := len(m.stack) - 1
	done := m.stack[last].dir
	defer done.close()
	m.stack = m.stack[:last]
	if last == 0 || m.stack[last-1].dir != nil {
		return nil
	}
	// A process can have moved the directory, so that ".." is another one.
	above := &m.stack[last-1]
	d, err := openAt(done.fd, "..")
	if err != nil {
		return os.NewSyscallError("open ..", err)
	}
	above.dir = d
	m.opened = last - 1
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if (inode{st.Dev, st.Ino}) != above.inode {
		return errors.New("a directory was moved meanwhile")
	}
	return d.seek(above.position)
}

func (m *measurement) closeAll() {
	for i := m.opened; i < len(m.stack); i++ {
		if m.stack[i].dir != nil {
			m.stack[i].dir.close()
		}
	}
}
