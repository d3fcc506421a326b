package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// DataFile returns a file in memory that can't be executed. The flags MFD_NOEXEC_SEAL and MFD_EXEC came with Linux 6.3,
// and with the sysctl vm.memfd_noexec, which makes the first a duty and refuses the second.
func DataFile(name string) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	return fd, err
}

// ExecutableFile returns a file in memory that can be executed. It fails with EACCES where vm.memfd_noexec is 2, and then
// UnnamedFile is the other way.
func ExecutableFile(name string, flags int) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_EXEC|flags)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|flags)
	}
	return fd, err
}

// UnnamedFile returns a handle to execute a file that write fills, in a file system that is mounted nowhere, or read-only at
// no name: whoever executes the file can't write to it, nor can anybody else. An ordinary user can't make a file
// system, and has the file without a name in a directory for temporary files.
func UnnamedFile(name string, write func(fd int) error) (int, error) {
	mount, err := detachedFileSystem()
	if err != nil {
		return temporaryFile(write)
	}
	defer func() { _ = unix.Close(mount) }()
	fd, err := unix.Openat(mount, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o700)
	if err != nil {
		return -1, fmt.Errorf("cannot create a file in a file system of its own: %w", err)
	}
	err = write(fd)
	_ = unix.Close(fd) // what somebody can write to is not executed
	if err != nil {
		return -1, err
	}
	if err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return -1, fmt.Errorf("cannot make a file system read-only: %w", err)
	}
	return unix.Openat(mount, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// detachedFileSystem returns an empty file system, which goes away with its last user.
func detachedFileSystem() (int, error) {
	context, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(context) }()
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, err
	}
	return unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
}

// temporaryFile returns a handle of a file without a name, in the first directory from which programs may be executed.
func temporaryFile(write func(fd int) error) (int, error) {
	var errs []error
	for _, dir := range []string{os.Getenv("XDG_RUNTIME_DIR"), os.TempDir(), "/var/tmp", "/dev/shm"} {
		var stat unix.Statfs_t
		if dir == "" || unix.Statfs(dir, &stat) != nil || stat.Flags&unix.ST_NOEXEC != 0 {
			continue
		}
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o700)
		if err != nil {
			errs = append(errs, &os.PathError{Op: "create a file in", Path: dir, Err: err})
			continue
		}
		err = write(fd)
		handle := -1
		if err == nil {
			handle, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_PATH|unix.O_CLOEXEC, 0)
		}
		_ = unix.Close(fd)
		return handle, err
	}
	return -1, errors.Join(append(errs, errors.New("there is no directory for temporary files from which programs may be executed"))...)
}
