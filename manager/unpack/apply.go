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
	root   *root
	budget *budget
	// written are the entries of this layer, which its own whiteouts do not hide.
	written map[string]bool
	// dirs are set their times last, as writing into them changes these.
	dirs   []*tar.Header
	buffer []byte
}

// Apply writes the files of an archive below dir: it makes, replaces and, for whiteouts, removes. Nothing outside dir
// is touched whatever the archive contains. Names in the archive that cannot be meant well give ErrInvalidArgument.
// The archive and the files may together not take more than limit bytes each.
func Apply(ctx context.Context, dir *os.File, archive io.Reader, limit int64) error {
	a := &applier{root: &root{dir: dir}, budget: &budget{limit: limit}, written: map[string]bool{}, buffer: make([]byte, 128<<10)}
	defer a.root.forget()
	reader := tar.NewReader(budgetReader{archive, &budget{limit: limit}})
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
		if err := a.entry(header, reader); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", header.Name, err)
		}
	}
	for i := len(a.dirs) - 1; i >= 0; i-- {
		if err := a.finishDir(a.dirs[i]); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", a.dirs[i].Name, err)
		}
	}
	return nil
}

// readError gives the archive reader's own complaints a class, and leaves those of what it reads from alone.
func readError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return badArchive(err)
	}
	return fmt.Errorf("cannot read the archive: %w", err)
}

func (a *applier) entry(header *tar.Header, content io.Reader) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(header.Name)
	if err != nil {
		return err
	}
	header.Name = name
	if base := path.Base(name); strings.HasPrefix(base, whiteout) {
		return a.whiteout(name, base)
	}
	if name == "" {
		if header.Typeflag != tar.TypeDir {
			return invalid("the root of a layer is a directory")
		}
		return a.setRoot(header)
	}
	if err := a.budget.take(header.Size); err != nil {
		return err
	}
	dir, base, err := a.root.openParent(name)
	if err != nil {
		return err
	}
	a.written[name] = true
	return a.make(dir, base, header, content)
}

// cleanName returns the path of an entry from the root, without a leading slash. `..` in a name that an archiver wrote
// has no honest use.
func cleanName(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", invalid("the name has a NUL in it")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", invalid(`the name leads out of the layer with ".."`)
		}
		if len(part) > unix.NAME_MAX {
			return "", invalid(fmt.Sprintf("a part of the name is longer than %d bytes", unix.NAME_MAX))
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func invalid(what string) error {
	return errdefs.As(errdefs.ErrInvalidArgument, errors.New(what))
}

func (a *applier) whiteout(name, base string) error {
	defer a.root.forget()
	keep := func(name string) bool { return a.written[name] }
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
		return removeContent(dir, dirName, keep)
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
	return removeAll(parent, hidden, path.Join(parentName, hidden), keep)
}

// clear makes way for an entry. A directory stays where a directory comes, and only then.
func (a *applier) clear(dir *os.File, base string, header *tar.Header) (exists bool, err error) {
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
		return false, removeAll(dir, base, header.Name, func(string) bool { return false })
	}
	if err := unix.Unlinkat(int(dir.Fd()), base, 0); err != nil {
		return false, &os.PathError{Op: "unlink", Path: header.Name, Err: err}
	}
	return false, nil
}

func (a *applier) make(dir *os.File, base string, header *tar.Header, content io.Reader) error {
	exists, err := a.clear(dir, base, header)
	if err != nil {
		return err
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

func (a *applier) makeNode(dir *os.File, base string, header *tar.Header) error {
	mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[header.Typeflag]
	var device uint64
	if header.Typeflag != tar.TypeFifo {
		if header.Devmajor < 0 || header.Devminor < 0 || header.Devmajor > 0xfff || header.Devminor > 0xfffff {
			return invalid("the device number is out of range")
		}
		if header.Devmajor == 0 && header.Devminor == 0 {
			return invalid("device 0:0 would be a whiteout of overlayfs")
		}
		device = unix.Mkdev(uint32(header.Devmajor), uint32(header.Devminor))
	}
	if err := unix.Mknodat(int(dir.Fd()), base, mode|0o600, int(device)); err != nil {
		return &os.PathError{Op: "mknod", Path: header.Name, Err: err}
	}
	return nil
}
