package launch

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Go runtime offers package syscall these two to block all signals around a fork, and lets others link to them
// (gVisor does). Between them no function may grow the stack.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

const (
	sysClone3     = unix.SYS_CLONE3
	sysOpenat2    = unix.SYS_OPENAT2
	cloneArgsSize = unsafe.Sizeof(cloneArgs{})
)

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd uint64
	_, parentTID uint64 // where to store the child's pid
	exitSignal   uint64
	_, _, _      uint64 // stack, its size, thread-local storage
	_, _         uint64 // thread IDs to take
	cgroup       uint64
}

// Birth says how the child is born.
type Birth struct {
	Flags    uint64 // namespaces to create
	CgroupFD int    // cgroup v2 directory to be born in, or -1

	// Shared lets the child work in this process's memory, while the calling thread waits for it to execute something.
	// The program must not wait for this process before that.
	Shared bool

	// Watch, if set, is asked each second in which the parent waits for the child in vain. Its error ends the wait. A child
	// that is Shared, and not begun Early, is waited for by the kernel, which asks nobody.
	Watch func() error

	// Within are namespaces that the calling thread enters for the moment of the fork, so that the child is born in
	// them. A pid namespace can't be entered otherwise, and one that a new user namespace doesn't own can't be later.
	Within []Namespace
}

// Namespace is a namespace to be in while forking, and the one to come back to.
type Namespace struct {
	Type    int
	FD      int
	OwnFD   int
	Path    string
	entered bool
}

// Process is a child that runs its program.
type Process struct {
	Pid     int
	PidFD   int
	program *Program
	channel int
	early   []message // that came before the one that was waited for
	watch   func() error
}

// Fork starts a child on the program. The channel's end in the child closes when the child executes.
func Fork(program *Program, birth Birth) (*Process, error) {
	ends, err := channel()
	if err != nil {
		return nil, err
	}
	m := &machine{channel: uintptr(ends[1]), parents: uintptr(ends[0])}
	image, err := program.load(m)
	if err != nil {
		_, _ = unix.Close(ends[0]), unix.Close(ends[1])
		return nil, err
	}
	pidfd := new(int32) // on the heap: the kernel writes to it by its address
	outcome := forkAside(m, birth.arguments(pidfd), birth.Within)
	program.keepAlive()
	_ = unix.Close(ends[1])
	if image >= 0 {
		_ = unix.Close(image)
	}
	if outcome.errno != 0 {
		_ = unix.Close(ends[0])
		return nil, outcome.explain(birth)
	}
	return &Process{Pid: int(outcome.pid), PidFD: int(*pidfd), program: program, channel: ends[0], watch: birth.Watch}, nil
}

// arguments are what the kernel is told of a birth.
func (b *Birth) arguments(pidfd *int32) *cloneArgs {
	args := &cloneArgs{
		// CLEAR_SIGHAND does what Go's runtime would else do signal by signal.
		flags:      b.Flags | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		pidfd:      uint64(uintptr(unsafe.Pointer(pidfd))),
		exitSignal: uint64(unix.SIGCHLD),
	}
	if b.Shared {
		args.flags |= unix.CLONE_VM | unix.CLONE_VFORK
	}
	if b.CgroupFD >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(b.CgroupFD)
	}
	return args
}

// forked is what came of a fork: a pid, or an error of clone3 or of entering the namespace with the index failed.
type forked struct {
	pid    uintptr
	errno  syscall.Errno
	failed int
}

func (f forked) explain(birth Birth) error {
	if f.failed >= 0 {
		return fmt.Errorf("cannot join namespace %q: %w", birth.Within[f.failed].Path, f.errno)
	}
	if f.errno == unix.EPERM && birth.Flags&unix.CLONE_NEWUSER == 0 {
		return fmt.Errorf("cannot create the container's process with its namespaces: without a new user namespace only root may: %w", f.errno)
	}
	return fmt.Errorf("cannot create the container's process with its namespaces: %w", f.errno)
}

// forkAside forks on a thread that ends with it if it can't come back: Go would start threads from it, which the kernel
// refuses, and processes, which would be in the container.
func forkAside(m *machine, args *cloneArgs, within []Namespace) forked {
	if comesBack(within) {
		return forkWithin(m, args, within)
	}
	outcome := make(chan forked)
	go func() {
		runtime.LockOSThread() // and never unlocked
		outcome <- forkWithin(m, args, within)
	}()
	return <-outcome
}

// comesBack tells whether a thread may come back from the namespaces. The root of a user namespace may not, if those that
// it was born in are the host's.
func comesBack(within []Namespace) bool {
	for _, n := range within {
		if unix.Setns(n.OwnFD, n.Type) != nil {
			return false
		}
	}
	return true
}

// forkWithin enters the namespaces, forks, and comes back, all on one thread: while signals are blocked and no function
// may yield, Go can neither move this goroutine nor start a thread that would inherit the namespaces.
//
//go:norace
//go:noinline
func forkWithin(m *machine, args *cloneArgs, within []Namespace) (outcome forked) {
	syscall.ForkLock.Lock()
	beforeFork()
	outcome = forkRaw(m, args, within)
	afterFork()
	syscall.ForkLock.Unlock()
	return outcome
}

// clone is clone3. The child calls child and never returns.
//
//go:noescape
func clone(args *cloneArgs, size uintptr, m *machine) (pid, errno uintptr)

//go:nosplit
//go:norace
//go:noinline
func forkRaw(m *machine, args *cloneArgs, within []Namespace) forked {
	outcome := forked{failed: -1}
	for i := range within {
		_, _, errno := syscall.RawSyscall(unix.SYS_SETNS, uintptr(within[i].FD), uintptr(within[i].Type), 0)
		if errno != 0 {
			outcome.errno, outcome.failed = errno, i
			break
		}
		within[i].entered = true
	}
	if outcome.errno == 0 {
		var errno uintptr
		outcome.pid, errno = clone(args, cloneArgsSize, m)
		outcome.errno = syscall.Errno(errno)
	}
	for i := range within {
		if within[i].entered {
			_, _, _ = syscall.RawSyscall(unix.SYS_SETNS, uintptr(within[i].OwnFD), uintptr(within[i].Type), 0)
		}
	}
	return outcome
}
