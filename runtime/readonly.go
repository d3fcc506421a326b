package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/nofile"
)

// A process that is to become the container's is for a moment the runtime in the container. Whoever may look at it
// there, through /proc/PID/exe, gets a handle to the host's binary and can write to it once it isn't busy any more
// (CVE-2019-5736). The process is hidden from all but those who have CAP_SYS_PTRACE in the host's user namespace, and
// never executes a file of the container's as the runtime (see launch.Last). For containers with that capability the
// runtime itself runs from a handle that nobody can write through: a mount of the binary that is read-only and attached
// nowhere. It costs the start of another Go program, and so the others are spared it. A shim that starts the runtime
// from such a handle spares it all of them.

// ensureReadOnly returns if the runtime runs from a read-only handle, and otherwise executes itself again from one.
func ensureReadOnly() error {
	const self = "/proc/self/exe"
	if os.Geteuid() != 0 {
		return nil // and the container's root can't write to root's files either
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(self, &stat); err != nil {
		return fmt.Errorf("cannot look at the runtime's own binary: %w", err)
	}
	if stat.Flags&unix.ST_RDONLY != 0 || sealed(self) {
		return nil
	}
	handle, err := readOnlyMount(self)
	if err != nil {
		// Without the right to mount, a copy does as well.
		if handle, err = sealedCopy(self); err != nil {
			return fmt.Errorf("cannot protect the runtime's own binary: %w", err)
		}
	}
	return fmt.Errorf("cannot execute the runtime from a read-only handle: %w", execveat(handle))
}

func readOnlyMount(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	return fd, err
}

const allSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

func sealedCopy(path string) (int, error) {
	from, err := os.Open(path)
	if err != nil {
		return -1, err
	}
	defer func() { _ = from.Close() }()
	fd, err := unix.MemfdCreate("berth-runtime", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, err
	}
	to := os.NewFile(uintptr(fd), "berth-runtime")
	if _, err := io.Copy(to, from); err != nil {
		return -1, err
	}
	handle, err := unix.FcntlInt(to.Fd(), unix.F_DUPFD_CLOEXEC, 3) // to closes its own when it is collected
	if err == nil {
		_, err = unix.FcntlInt(uintptr(handle), unix.F_ADD_SEALS, allSeals)
	}
	return handle, err
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
