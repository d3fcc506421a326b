package unpack

import (
	"errors"
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
		parent, err = r.makeAll(dir, maxLinks)
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

// makeAll opens name, and makes what is missing of it. Where a link leads nowhere yet, what it leads to is made.
// It goes down one component at a time, because to resolve each beginning of a path would be quadratic in its depth.
func (r *root) makeAll(name string, links int) (*os.File, error) {
	current, err := r.openDir("")
	if err != nil {
		return nil, err
	}
	done := ""
	for part := range strings.SplitSeq(name, "/") {
		done = path.Join(done, part)
		next, err := r.makeOne(current, part, done, links)
		_ = current.Close()
		if err != nil {
			return nil, err
		}
		current = next
	}
	return current, nil
}

// makeOne opens the directory base in above, which is called name from the root, and makes it if it is missing.
func (r *root) makeOne(above *os.File, base, name string, links int) (*os.File, error) {
	open := func() (*os.File, error) {
		fd, err := unix.Openat(int(above.Fd()), base, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: shorten(name), Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	dir, err := open()
	if errors.Is(err, unix.ENOENT) {
		if err := unix.Mkdirat(int(above.Fd()), base, 0o755); err != nil {
			return nil, &os.PathError{Op: "mkdir", Path: shorten(name), Err: err}
		}
		return open()
	}
	if err == nil || !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		return dir, err
	}
	// A link, whose target only the kernel can find inside the root.
	dir, err = r.openDir(name)
	if !errors.Is(err, unix.ENOENT) {
		return dir, err
	}
	if links == 0 {
		return nil, &os.PathError{Op: "mkdir", Path: shorten(name), Err: unix.ELOOP}
	}
	buffer := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(above.Fd()), base, buffer)
	if err != nil {
		return nil, &os.PathError{Op: "readlink", Path: shorten(name), Err: err}
	}
	target := string(buffer[:n])
	if !path.IsAbs(target) {
		target = path.Dir("/"+name) + "/" + target
	}
	made, err := r.makeAll(strings.TrimPrefix(path.Clean("/"+target), "/"), links-1)
	if err != nil {
		return nil, err
	}
	_ = made.Close()
	return r.openDir(name)
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
