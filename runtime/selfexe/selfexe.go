// Package selfexe keeps the container from writing to the runtime's binary (CVE-2019-5736).
//
// A process that is about to become the container's is for a moment the runtime inside the container. A process that may
// look at it there gets a handle of the host's binary through /proc/PID/exe, and can write to the binary as soon as it is
// not busy any more. The process is hidden from all that lack CAP_SYS_PTRACE in the host's user namespace, and it never
// executes a file of the container as the runtime (see launch.Last). Where a process of the container may have that
// capability the runtime itself runs from a file that is read-only and not the host's: the binary as an overlay without
// an upper layer shows it. A read-only mount of the binary, as a shim starts the runtime from, is no handle to write
// through either. But repeated attempts to open it keep everybody else from executing the binary, because the kernel
// counts the writers of a file before it looks at the mount. The second execution costs the start of a Go program, and
// so all other containers are spared it.
package selfexe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
	"github.com/berthd/berth/runtime/nofile"
)

const ownFile = "/proc/self/exe"

// Protect returns if the runtime runs from a protected file, and otherwise executes the runtime again from one. The second
// execution starts from the beginning: whatever the first has read from a pipe, sent or connected to is lost to it.
func Protect() error {
	if os.Geteuid() != 0 {
		return nil // and the container's root can't write to root's files either
	}
	link, err := os.Readlink(ownFile)
	if err != nil {
		return fmt.Errorf("cannot look at the runtime's own binary: %w", err)
	}
	if isDetached(link) || sealed(ownFile) {
		return nil
	}
	handle, err := overlay(link)
	if err != nil {
		// Without the right to mount, or the file system, a copy does as well.
		if handle, err = sealedCopy(ownFile); err != nil {
			return fmt.Errorf("cannot protect the runtime's own binary: %w", err)
		}
	}
	return fmt.Errorf("cannot execute the runtime from a read-only handle: %w", execveat(handle))
}

// isDetached tells whether the runtime runs from what overlay returns, or sealedCopy where it can't seal: a read-only file
// system that is mounted nowhere. A mount of a file alone has no name in it.
func isDetached(link string) bool {
	var stat unix.Statfs_t
	if err := unix.Statfs(ownFile, &stat); err != nil || stat.Flags&unix.ST_RDONLY == 0 {
		return false
	}
	return (stat.Type == unix.OVERLAYFS_SUPER_MAGIC || stat.Type == unix.TMPFS_MAGIC) && link != "/" && filepath.Dir(link) == "/"
}

// overlay returns a handle of the runtime's binary in an overlay that is mounted nowhere.
func overlay(link string) (int, error) {
	if link == "/" { // a mount of a file alone, by a shim, who says the path
		link = os.Args[0]
	}
	dir, name := filepath.Split(link)
	lower, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(lower) }()
	if err := checkOwn(lower, name); err != nil {
		return -1, err
	}
	context, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(context) }()
	// Without an upper layer there must be two lower ones. Any directory does that has nothing to do with the first.
	err = unix.FsconfigSetString(context, "lowerdir", fmt.Sprintf("/proc/self/fd/%d:/dev", lower))
	if err == nil {
		err = unix.FsconfigSetString(context, "xino", "off") // or the kernel's log says that it can't be on
	}
	if err == nil {
		err = unix.FsconfigCreate(context)
	}
	if err != nil {
		return -1, err
	}
	mount, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(mount) }()
	return unix.Openat(mount, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// checkOwn checks that the file is the one that this process executes, and that an overlay of the directory shows it:
// what is mounted on a file it doesn't.
func checkOwn(dir int, name string) error {
	const mask = unix.STATX_INO | unix.STATX_MNT_ID
	var own, file, in unix.Statx_t
	err := errors.Join(unix.Statx(unix.AT_FDCWD, ownFile, 0, mask, &own), unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, mask, &file),
		unix.Statx(dir, "", unix.AT_EMPTY_PATH, mask, &in))
	if err != nil {
		return err
	}
	if own.Ino != file.Ino || own.Dev_major != file.Dev_major || own.Dev_minor != file.Dev_minor || file.Mnt_id != in.Mnt_id {
		return fmt.Errorf("%q is not what is executed", name)
	}
	return nil
}

const allSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// sealedCopy returns a handle of a copy that nobody can write to: one in memory that is sealed, or where no file in
// memory may be executed, one in a file system that is read-only.
func sealedCopy(path string) (int, error) {
	const name = "berth-runtime"
	fd, err := sys.ExecutableFile(name, unix.MFD_ALLOW_SEALING)
	if errors.Is(err, unix.EACCES) {
		return sys.UnnamedFile(name, func(to int) error { return copyFile(path, to) })
	}
	if err != nil {
		return -1, err
	}
	if err := copyFile(path, fd); err != nil {
		return -1, err
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, allSeals)
	return fd, err
}

func copyFile(path string, to int) error {
	from, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(from) }()
	const most = 1 << 30 // of one call
	for {
		if n, err := unix.Sendfile(to, from, nil, most); n == 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func sealed(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	return err == nil && seals&allSeals == allSeals
}

// execveat executes an open file with this process's arguments and environment. Through /proc/self/fd it would be the
// same but for the name that ps shows.
func execveat(fd int) error {
	if limit, raised := nofile.Raised(); raised {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit.Soft, Max: limit.Hard}); err != nil {
			return fmt.Errorf("cannot put the limit of open files back: %w", err)
		}
	}
	argv, err := syscall.SlicePtrFromStrings(os.Args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(os.Environ())
	if err != nil {
		return err
	}
	empty := []byte{0}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	return &os.SyscallError{Syscall: "execveat " + strconv.Itoa(fd), Err: errno}
}
