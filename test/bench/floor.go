package main

import (
	"fmt"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bare is a container without a runtime: what any runtime has to do at least, and nothing else.
type bare struct {
	clone                     cloneArgs
	root, dot, slash, program *byte
	argv                      [3]*byte
	env                       [1]*byte
	// calls are made in the new root, which is the current directory, while the old one is still around it. The addresses
	// in them are those of texts.
	calls [][7]uintptr
	texts []*byte
}

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls uint64
}

// newBare returns a container that runs a program of the root file system in the namespaces of runc's default configuration.
func newBare(rootfs, program, argument string) *bare {
	c := &bare{
		clone: cloneArgs{
			flags:      unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP | unix.CLONE_CLEAR_SIGHAND,
			exitSignal: uint64(unix.SIGCHLD),
		},
		root: cString(filepath.Clean(rootfs)), dot: cString("."), slash: cString("/"), program: cString(program),
	}
	c.argv[0], c.argv[1] = c.program, cString(argument)
	return c
}

// begin starts the program.
func (c *bare) begin() (pid int, err error) {
	syscall.ForkLock.Lock()
	child, errno := c.start()
	syscall.ForkLock.Unlock()
	if errno != 0 {
		return 0, fmt.Errorf("cannot clone: %w", errno)
	}
	return int(child), nil
}

// run starts the program and waits for its end.
func (c *bare) run() error {
	pid, err := c.begin()
	if err != nil {
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return err
	}
	if code := status.ExitStatus(); code != 0 {
		return fmt.Errorf("cannot start a program without a runtime: %w", syscall.Errno(code))
	}
	return nil
}

// end kills the program, which must still be running. 0: none was started.
func end(pid int) error {
	if pid == 0 {
		return nil
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return err
	}
	if !status.Signaled() {
		return fmt.Errorf("a program without a runtime has ended: %w", syscall.Errno(status.ExitStatus()))
	}
	return nil
}

func cString(s string) *byte { return &append([]byte(s), 0)[0] }

// start forks. The child has a copy of this thread's stack and no other thread, so that it may only make raw system
// calls; it ends with the errno of the one that failed.
//
//go:nosplit
//go:norace
//go:noinline
func (c *bare) start() (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&c.clone)), unsafe.Sizeof(c.clone), 0)
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	root, dot, slash := uintptr(unsafe.Pointer(c.root)), uintptr(unsafe.Pointer(c.dot)), uintptr(unsafe.Pointer(c.slash))
	_, _, errno = syscall.RawSyscall6(unix.SYS_MOUNT, 0, slash, 0, unix.MS_SLAVE|unix.MS_REC, 0, 0)
	if errno == 0 {
		_, _, errno = syscall.RawSyscall6(unix.SYS_MOUNT, root, root, 0, unix.MS_BIND, 0, 0)
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_CHDIR, root, 0, 0)
	}
	for i := 0; errno == 0 && i < len(c.calls); i++ {
		next := &c.calls[i]
		_, _, errno = syscall.RawSyscall6(next[0], next[1], next[2], next[3], next[4], next[5], next[6])
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_PIVOT_ROOT, dot, dot, 0)
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_UMOUNT2, dot, unix.MNT_DETACH, 0)
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(c.program)), uintptr(unsafe.Pointer(&c.argv)), uintptr(unsafe.Pointer(&c.env)))
	}
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
}
