package unpack

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// root is a file system tree under construction. Its content, with every symbolic link in it, comes from strangers:
// paths are resolved by the kernel with this directory as their root, so `..` and absolute links stay inside, and the
// last component of a path is never followed.
type root struct {
	dir *os.File
	// parent is the directory that was used last, as archives list the files of one directory together.
	parentName string
	parent     *os.File
}

const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// forget drops what is remembered of the tree. Needed whenever a directory or a link may have gone or come.
func (r *root) forget() {
	if r.parent != nil {
		_ = r.parent.Close()
		r.parent = nil
	}
}

// openParent returns the directory that holds name, made if it is missing, and the last component of name.
// The directory is valid until the next call.
func (r *root) openParent(name string) (*os.File, string, error) {
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if r.parent != nil && r.parentName == dir {
		return r.parent, base, nil
	}
	parent, err := r.openDir(dir)
	if errors.Is(err, unix.ENOENT) {
		if err := r.makeAll(dir, maxLinks); err != nil {
			return nil, "", err
		}
		parent, err = r.openDir(dir)
	}
	if err != nil {
		return nil, "", err
	}
	r.forget()
	r.parentName, r.parent = dir, parent
	return parent, base, nil
}

// openDir opens a directory, following links inside the root. The empty name is the root.
func (r *root) openDir(name string) (*os.File, error) {
	if name == "" {
		name = "."
	}
	fd, err := sys.Openat2(int(r.dir.Fd()), name, &unix.OpenHow{
		Flags: unix.O_DIRECTORY | unix.O_RDONLY | unix.O_CLOEXEC, Resolve: resolve,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// maxLinks bounds how many links that lead nowhere yet are followed to make one directory.
const maxLinks = 8

// makeAll makes name and what is missing above it. Where a link leads nowhere yet, what it leads to is made.
func (r *root) makeAll(name string, links int) error {
	done := ""
	for part := range strings.SplitSeq(name, "/") {
		next := path.Join(done, part)
		dir, err := r.openDir(next)
		if err == nil {
			_ = dir.Close()
			done = next
			continue
		}
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err := r.makeOne(done, part, links); err != nil {
			return err
		}
		done = next
	}
	return nil
}

func (r *root) makeOne(above, base string, links int) error {
	dir, err := r.openDir(above)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	err = unix.Mkdirat(int(dir.Fd()), base, 0o755)
	if err == nil {
		return nil
	}
	name := path.Join(above, base)
	buffer := make([]byte, unix.PathMax)
	n, linkErr := unix.Readlinkat(int(dir.Fd()), base, buffer)
	if !errors.Is(err, unix.EEXIST) || linkErr != nil {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	if links == 0 {
		return &os.PathError{Op: "mkdir", Path: name, Err: unix.ELOOP}
	}
	target := string(buffer[:n])
	if !path.IsAbs(target) {
		target = above + "/" + target
	}
	return r.makeAll(strings.TrimPrefix(path.Clean("/"+target), "/"), links-1)
}

// lstat describes the entry itself. A missing one gives ENOENT.
func lstat(dir *os.File, base string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// procPath names an entry for the calls that take no directory descriptor. The link of /proc leads to the directory
// itself, whatever its names, and base is one component which those calls do not follow.
func procPath(dir *os.File, base string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + base
}

// removeAll removes an entry with all below it, except what keep says; an entry that is not there is no error.
func removeAll(dir *os.File, base, name string, keep func(name string) bool) error {
	if !keep(name) {
		err := unix.Unlinkat(int(dir.Fd()), base, 0)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EISDIR {
			return &os.PathError{Op: "unlink", Path: name, Err: err}
		}
	}
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return nil // kept, and not a directory
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	child := os.NewFile(uintptr(fd), name)
	defer func() { _ = child.Close() }()
	if err := removeContent(child, name, keep); err != nil {
		return err
	}
	if keep(name) {
		return nil
	}
	err = unix.Unlinkat(int(dir.Fd()), base, unix.AT_REMOVEDIR)
	if err != nil && err != unix.ENOTEMPTY { // not empty: something below was kept
		return &os.PathError{Op: "rmdir", Path: name, Err: err}
	}
	return nil
}

// removeContent empties a directory, except for what keep says.
func removeContent(dir *os.File, name string, keep func(name string) bool) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("cannot list %q: %w", name, err)
	}
	for _, base := range names {
		if err := removeAll(dir, base, path.Join(name, base), keep); err != nil {
			return err
		}
	}
	return nil
}
