package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/tree"
)

// Names that the image specification gives a meaning: a whiteout hides one entry of the layers below, the opaque
// marker all of a directory. Others that begin like metaWhiteout are aufs's own and mean nothing here.
const (
	whiteout     = ".wh."
	metaWhiteout = ".wh..wh."
	opaque       = ".wh..wh..opq"
)

// applier writes one layer's archive over the layers below it.
type applier struct {
	root    *root
	budgets *budgets
	made    made
	// absent are the entries that are whiteouts of overlayfs, which hard links can lead to.
	absent map[string]bool
	// dirs are set their times last, as writing into them changes these.
	dirs   []dirTimes
	buffer []byte
}

// Apply writes the files of an archive below dir: it makes, replaces and, for whiteouts, removes. Nothing outside dir
// is touched whatever the archive contains. Names in the archive that cannot be meant well give ErrInvalidArgument,
// an archive that takes more than the limits for its compressed size ErrResourceExhausted.
func Apply(ctx context.Context, dir *os.File, archive io.Reader, limits Limits, compressed int64) error {
	return newApplier(dir, limits.budgets(compressed)).run(ctx, archive)
}

func newApplier(dir *os.File, budgets *budgets) *applier {
	return &applier{root: &root{dir: dir}, budgets: budgets, made: made{}, absent: map[string]bool{}, buffer: make([]byte, 128<<10)}
}

func (a *applier) run(ctx context.Context, archive io.Reader) error {
	defer a.root.forget()
	reader := tar.NewReader(budgetReader{archive, &a.budgets.archive})
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return readError(err)
		}
		if err := a.entry(ctx, header, contextReader{reader, ctx}); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", shorten(header.Name), err)
		}
	}
	for i := len(a.dirs) - 1; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.finishDir(a.dirs[i]); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", shorten(a.dirs[i].name), err)
		}
	}
	return nil
}

// shorten keeps a name from making an error longer than people read, or than a response may be.
func shorten(name string) string {
	const enough = 200
	if len(name) <= enough {
		return name
	}
	return name[:enough] + "…"
}

// readError gives the archive reader's own complaints a class, and leaves those of what it reads from alone.
func readError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return badArchive(err)
	}
	return fmt.Errorf("cannot read the archive: %w", err)
}

func (a *applier) entry(ctx context.Context, header *tar.Header, content io.Reader) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(header.Name)
	if err != nil {
		return err
	}
	header.Name = name
	if base := path.Base(name); strings.HasPrefix(base, whiteout) {
		return a.whiteout(ctx, name, base)
	}
	if name == "" {
		if header.Typeflag != tar.TypeDir {
			return invalid("the root of a layer is a directory")
		}
		return a.setRoot(header)
	}
	err = errors.Join(a.budgets.files.take(header.Size), a.budgets.entries.take(a.made.add(name)), a.budgets.data.take(xattrSize(header)))
	if err != nil {
		return err
	}
	dir, base, err := a.root.openParent(name)
	if err != nil {
		return err
	}
	return a.make(ctx, dir, base, header, content)
}

// cleanName returns the path of an entry from the root, without a leading slash. A name that still leads out when ".."
// has taken away what is before it has no honest use.
func cleanName(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", invalid("the name has a NUL in it")
	}
	clean := path.Clean(name)
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", invalid(`the name leads out of the layer with ".."`)
	}
	clean = strings.TrimPrefix(path.Clean("/"+clean), "/")
	if len(clean) >= unix.PathMax {
		return "", invalid(fmt.Sprintf("the name is longer than %d bytes", unix.PathMax-1))
	}
	for part := range strings.SplitSeq(clean, "/") {
		if len(part) > unix.NAME_MAX {
			return "", invalid(fmt.Sprintf("a part of the name is longer than %d bytes", unix.NAME_MAX))
		}
	}
	return clean, nil
}

func invalid(what string) error {
	return errdefs.As(errdefs.ErrInvalidArgument, errors.New(what))
}

func (a *applier) whiteout(ctx context.Context, name, base string) error {
	defer a.root.forget()
	if base == opaque {
		dirName := strings.TrimSuffix(strings.TrimSuffix(name, opaque), "/")
		dir, err := a.root.openDir(dirName)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil
		}
		if err != nil {
			return err
		}
		defer func() { _ = dir.Close() }()
		return a.hideContent(ctx, dir, dirName)
	}
	if strings.HasPrefix(base, metaWhiteout) {
		return nil
	}
	hidden := strings.TrimPrefix(base, whiteout)
	if hidden == "" || hidden == "." || hidden == ".." {
		return invalid("the whiteout hides no name")
	}
	parentName := strings.TrimSuffix(strings.TrimSuffix(name, base), "/")
	parent, err := a.root.openDir(parentName)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }()
	return a.hide(ctx, parent, hidden, path.Join(parentName, hidden))
}

// hide removes an entry of the layers below with all below it. What this layer has made stays; an entry that is not
// there is no error. It goes down only along names that this layer has made, so not deeper than those are long.
func (a *applier) hide(ctx context.Context, dir *os.File, base, name string) error {
	itself, below := a.made.find(name)
	if !below {
		return tree.Remove(ctx, procPath(dir, base))
	}
	if !itself {
		err := unix.Unlinkat(int(dir.Fd()), base, 0)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EISDIR {
			return &os.PathError{Op: "unlink", Path: name, Err: err}
		}
	}
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOTDIR || err == unix.ELOOP || err == unix.ENOENT {
		return nil // made, and not a directory
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	child := os.NewFile(uintptr(fd), name)
	defer func() { _ = child.Close() }()
	if err := a.hideContent(ctx, child, name); err != nil || itself {
		return err
	}
	err = unix.Unlinkat(int(dir.Fd()), base, unix.AT_REMOVEDIR)
	if err != nil && err != unix.ENOTEMPTY { // not empty: something below was made
		return &os.PathError{Op: "rmdir", Path: name, Err: err}
	}
	return nil
}

// listAtOnce is how many names of a directory are in memory at a time.
const listAtOnce = 1024

// hideContent empties a directory, except for what this layer has made.
func (a *applier) hideContent(ctx context.Context, dir *os.File, name string) error {
	for {
		names, err := dir.Readdirnames(listAtOnce)
		for _, base := range names {
			if err := a.hide(ctx, dir, base, path.Join(name, base)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot list %q: %w", name, err)
		}
	}
}

// clear makes way for an entry. A directory stays where a directory comes, and only then.
func (a *applier) clear(ctx context.Context, dir *os.File, base string, header *tar.Header) (exists bool, err error) {
	st, err := lstat(dir, base)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: header.Name, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if header.Typeflag == tar.TypeDir {
			return true, nil
		}
		// What is remembered may lie below what goes; dir itself is still needed and lies above.
		return false, tree.Remove(ctx, procPath(dir, base))
	}
	if err := unix.Unlinkat(int(dir.Fd()), base, 0); err != nil {
		return false, &os.PathError{Op: "unlink", Path: header.Name, Err: err}
	}
	return false, nil
}

func (a *applier) make(ctx context.Context, dir *os.File, base string, header *tar.Header, content io.Reader) error {
	exists, err := a.clear(ctx, dir, base, header)
	if err != nil {
		return err
	}
	delete(a.absent, header.Name)
	if isWhiteoutDevice(header) {
		a.absent[header.Name] = true
		return a.budgets.dirNames.take(int64(len(header.Name)))
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return a.makeDir(dir, base, header, exists)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont, '\x00':
		return a.makeFile(dir, base, header, content)
	case tar.TypeLink:
		return a.makeLink(dir, base, header)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(header.Linkname, int(dir.Fd()), base); err != nil {
			return &os.PathError{Op: "symlink", Path: header.Name, Err: err}
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		if err := a.makeNode(dir, base, header); err != nil {
			return err
		}
	default:
		return invalid(fmt.Sprintf("the archive has an entry of unknown type %q", header.Typeflag))
	}
	return setMetadata(dir, base, header)
}

// makeLink links to what the archive or a layer below has put in place. Its metadata is the target's.
func (a *applier) makeLink(dir *os.File, base string, header *tar.Header) error {
	target, err := cleanName(header.Linkname)
	if err != nil {
		return err
	}
	if target == "" {
		return invalid("a hard link leads to the root")
	}
	if a.absent[target] {
		a.absent[header.Name] = true
		return a.budgets.dirNames.take(int64(len(header.Name)))
	}
	// A root of its own, because dir must stay open.
	other := &root{dir: a.root.dir}
	defer other.forget()
	parent, err := other.openDir(strings.TrimPrefix(path.Dir("/"+target), "/"))
	if err != nil {
		return targetError(target, err)
	}
	defer func() { _ = parent.Close() }()
	// Without AT_SYMLINK_FOLLOW a link to a symbolic link is just that.
	if err := unix.Linkat(int(parent.Fd()), path.Base(target), int(dir.Fd()), base, 0); err != nil {
		return targetError(target, err)
	}
	return nil
}

// targetError is the layer's fault if there is nothing to link to: files come before the links to them.
func targetError(target string, err error) error {
	err = fmt.Errorf("cannot link to %q: %w", target, err)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EPERM) { // EPERM: a directory
		return errdefs.As(errdefs.ErrInvalidArgument, err)
	}
	return err
}

// isWhiteoutDevice tells whether an entry is the character device 0:0. To overlayfs it says that a file of a layer below
// is not there, and images of container engines' own directories have such. So there is nothing at its place.
func isWhiteoutDevice(header *tar.Header) bool {
	return header.Typeflag == tar.TypeChar && header.Devmajor == 0 && header.Devminor == 0
}

func (a *applier) makeNode(dir *os.File, base string, header *tar.Header) error {
	mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[header.Typeflag]
	var device uint64
	if header.Typeflag != tar.TypeFifo {
		if header.Devmajor < 0 || header.Devminor < 0 || header.Devmajor > 0xfff || header.Devminor > 0xfffff {
			return invalid("the device number is out of range")
		}
		device = unix.Mkdev(uint32(header.Devmajor), uint32(header.Devminor))
	}
	if err := unix.Mknodat(int(dir.Fd()), base, mode|0o600, int(device)); err != nil {
		return &os.PathError{Op: "mknod", Path: header.Name, Err: err}
	}
	return nil
}
