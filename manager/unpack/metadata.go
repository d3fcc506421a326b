package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const xattrPrefix = "SCHILY.xattr."

// makeFile writes a regular file. Blocks of zeros become holes: they cost no disk, and an archive can't tell.
func (a *applier) makeFile(dir *os.File, base string, header *tar.Header, content io.Reader) error {
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: header.Name, Err: err}
	}
	file := os.NewFile(uintptr(fd), header.Name)
	size, err := a.fill(file, content)
	if err == nil && size != header.Size {
		err = badArchive(io.ErrUnexpectedEOF)
	}
	if err == nil {
		err = setFileMetadata(file, header)
	}
	return errors.Join(err, file.Close())
}

func (a *applier) fill(file *os.File, content io.Reader) (size int64, err error) {
	hole := false
	for {
		n, err := io.ReadFull(content, a.buffer)
		if n > 0 {
			hole = isZero(a.buffer[:n])
			if !hole {
				if err := a.budgets.data.take(int64(n)); err != nil {
					return size, err
				}
				if _, err := file.WriteAt(a.buffer[:n], size); err != nil {
					return size, err
				}
			}
			size += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
			break
		}
		if err != nil {
			return size, readError(err)
		}
	}
	if hole {
		return size, file.Truncate(size)
	}
	return size, nil
}

func isZero(block []byte) bool {
	for _, b := range block {
		if b != 0 {
			return false
		}
	}
	return true
}

func setFileMetadata(file *os.File, header *tar.Header) error {
	uid, gid, err := owner(header)
	if err != nil {
		return err
	}
	fd := int(file.Fd())
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return &os.PathError{Op: "chown", Path: header.Name, Err: err}
	}
	// After chown, which clears the set-id bits and capabilities.
	if err := unix.Fchmod(fd, uint32(header.Mode)&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: header.Name, Err: err}
	}
	for key, value := range xattrs(header) {
		if err := unix.Fsetxattr(fd, key, []byte(value), 0); err != nil && !tolerated(key, err) {
			return &os.PathError{Op: "setxattr " + key, Path: header.Name, Err: err}
		}
	}
	times := timespecs(header)
	if err := unix.UtimesNanoAt(fd, "", times[:], unix.AT_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "utimensat", Path: header.Name, Err: err}
	}
	return nil
}

// dirTimes are the access and modification times of a directory.
type dirTimes struct {
	name  string
	times [2]unix.Timespec
}

// makeDir makes a directory, or lets one of a layer below stay and changes its metadata.
func (a *applier) makeDir(dir *os.File, base string, header *tar.Header, exists bool) error {
	if !exists {
		if err := unix.Mkdirat(int(dir.Fd()), base, 0o700); err != nil {
			return &os.PathError{Op: "mkdir", Path: header.Name, Err: err}
		}
	}
	if err := a.budgets.dirNames.take(int64(len(header.Name))); err != nil {
		return err
	}
	a.dirs = append(a.dirs, dirTimes{header.Name, timespecs(header)})
	return setMetadata(dir, base, header)
}

func (a *applier) setRoot(header *tar.Header) error {
	a.dirs = append(a.dirs, dirTimes{"", timespecs(header)})
	return setFileMetadata(a.root.dir, header)
}

// finishDir gives a directory its times. A later entry may have put something else in its place.
func (a *applier) finishDir(d dirTimes) error {
	if d.name == "" {
		return unix.UtimesNanoAt(int(a.root.dir.Fd()), ".", d.times[:], 0)
	}
	parent, base := path.Split(d.name)
	dir, err := a.root.openDir(strings.TrimSuffix(parent, "/"))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	st, err := lstat(dir, base)
	if errors.Is(err, unix.ENOENT) || err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: d.name, Err: err}
	}
	return unix.UtimesNanoAt(int(dir.Fd()), base, d.times[:], unix.AT_SYMLINK_NOFOLLOW)
}

// setMetadata is setFileMetadata for what cannot be opened: links, devices, pipes; and for directories.
func setMetadata(dir *os.File, base string, header *tar.Header) error {
	uid, gid, err := owner(header)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(int(dir.Fd()), base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "chown", Path: header.Name, Err: err}
	}
	if header.Typeflag != tar.TypeSymlink { // a link has no mode, and chmod would follow it
		if err := unix.Fchmodat(int(dir.Fd()), base, uint32(header.Mode)&0o7777, 0); err != nil {
			return &os.PathError{Op: "chmod", Path: header.Name, Err: err}
		}
	}
	for key, value := range xattrs(header) {
		if err := unix.Lsetxattr(procPath(dir, base), key, []byte(value), 0); err != nil && !tolerated(key, err) {
			return &os.PathError{Op: "setxattr " + key, Path: header.Name, Err: err}
		}
	}
	if header.Typeflag == tar.TypeDir {
		return nil // finishDir does it
	}
	times := timespecs(header)
	if err := unix.UtimesNanoAt(int(dir.Fd()), base, times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: header.Name, Err: err}
	}
	return nil
}

func owner(header *tar.Header) (uid, gid int, err error) {
	// The highest number means "unchanged" to the kernel.
	if header.Uid < 0 || header.Uid >= math.MaxUint32 || header.Gid < 0 || header.Gid >= math.MaxUint32 {
		return 0, 0, invalid(fmt.Sprintf("the owner %d:%d is out of range", header.Uid, header.Gid))
	}
	return header.Uid, header.Gid, nil
}

// xattrs returns the extended attributes that an image may set: those of programs and file capabilities. The others
// steer the host: overlayfs's own, or labels of a security module that the image knows nothing about.
func xattrs(header *tar.Header) map[string]string {
	var found map[string]string
	for record, value := range header.PAXRecords {
		key, is := strings.CutPrefix(record, xattrPrefix)
		if !is {
			continue
		}
		allowed := key == "security.capability" || strings.HasPrefix(key, "system.posix_acl_") ||
			strings.HasPrefix(key, "user.") && !strings.HasPrefix(key, "user.overlay.")
		if !allowed {
			continue
		}
		if found == nil {
			found = map[string]string{}
		}
		found[key] = value
	}
	return found
}

// tolerated are attributes that the file system, or the kind of file, can't have. File capabilities are not among
// them: a program without them would fail much later.
func tolerated(key string, err error) bool {
	return key != "security.capability" && (errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM))
}

// xattrSize is what the extended attributes of an entry take on disk, where they are data like a file's.
func xattrSize(header *tar.Header) (size int64) {
	for key, value := range xattrs(header) {
		size += int64(len(key) + len(value))
	}
	return size
}

func timespecs(header *tar.Header) [2]unix.Timespec {
	access := header.AccessTime
	if access.IsZero() {
		access = header.ModTime
	}
	return [2]unix.Timespec{timespec(access), timespec(header.ModTime)}
}

func timespec(t time.Time) unix.Timespec {
	if t.IsZero() || t.Unix() < math.MinInt32 || t.Year() > 9999 {
		return unix.Timespec{}
	}
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return unix.Timespec{}
	}
	return ts
}
