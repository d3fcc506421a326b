// Package sharing opens what one container lets another one use: its namespaces and its /dev/shm.
package sharing

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/manager/thread"
)

// Handles are open namespaces of running processes. An open namespace stays what it is: a process ID may be another
// process's by the time a runtime reads it.
type Handles struct {
	files []*os.File
	// mounts is the mount namespace of the process whose /dev/shm is shared.
	mounts *os.File
}

// Namespace opens a namespace of a process, named as below /proc/PID/ns, and returns a path by which a runtime can join
// it until Close.
func (h *Handles) Namespace(pid uint32, name string) (path string, err error) {
	file, err := h.open(pid, name)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()), nil
}

// Mounts opens the mount namespace of a process, for MountSharedMemory.
func (h *Handles) Mounts(pid uint32) (err error) {
	h.mounts, err = h.open(pid, "mnt")
	return err
}

func (h *Handles) open(pid uint32, name string) (*os.File, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		return nil, fmt.Errorf("cannot open the %s namespace: %w", name, err)
	}
	h.files = append(h.files, file)
	return file, nil
}

// Close lets go of the namespaces.
func (h *Handles) Close() {
	for _, file := range h.files {
		_ = file.Close()
	}
	h.files, h.mounts = nil, nil
}

// MountSharedMemory mounts the /dev/shm of the opened mount namespace at target, which it makes. It does nothing if
// Mounts was not called.
func (h *Handles) MountSharedMemory(target string) error {
	if h.mounts == nil {
		return nil
	}
	var tree int
	err := thread.Spend(func() (err error) {
		tree, err = cloneSharedMemory(int(h.mounts.Fd()))
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot share /dev/shm: %w", err)
	}
	defer func() { _ = unix.Close(tree) }()
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot share /dev/shm: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot share /dev/shm: %w", &os.PathError{Op: "move_mount", Path: target, Err: err})
	}
	return nil
}

// cloneSharedMemory returns a copy of the mount at /dev/shm of a mount namespace, which the calling thread enters: a
// path such as /proc/PID/root/dev/shm could be made to lead to the host's files by links in the container. Only a tmpfs
// is taken, as a file system of the container's own could let every access hang.
func cloneSharedMemory(mounts int) (tree int, err error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns refuses a thread that shares its root directory
		return -1, os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(mounts, unix.CLONE_NEWNS); err != nil {
		return -1, os.NewSyscallError("setns", err)
	}
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_SYMLINK_NOFOLLOW
	tree, err = unix.OpenTree(unix.AT_FDCWD, "/dev/shm", uint(flags))
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: "/dev/shm", Err: err}
	}
	var info unix.Statfs_t
	if err := unix.Fstatfs(tree, &info); err != nil || info.Type != unix.TMPFS_MAGIC {
		_ = unix.Close(tree)
		return -1, errors.Join(errors.New("it is not a tmpfs"), err)
	}
	return tree, nil
}
