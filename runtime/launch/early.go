package launch

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// Early is a child that was forked before its program was written: the kernel takes as long to make the namespaces as
// the parent to write down what happens in them.
//
//	parent                      another thread of it            child
//	──────                      ────────────────────            ─────
//	Begin ────────────────────► clone3 ──────────────────────►  (namespaces are made)
//	Program: Call, Call, …        │ waits, as with vfork        read
//	Start ── one byte on the channel ───────────────────────►   interpret: operation 0, 1, 2 …
//	Release ── one byte, if the program waits for it ───────►   Wait continues
//	Finish ◄────────────────────  ▼ ◄─────────────────────────  execve
type Early struct {
	machine *machine
	birth   Birth
	args    *cloneArgs
	masks   [2]uint64 // all signals, and those that the thread had blocked
	ends    [2]int
	parent  int // a pidfd of this process, for the child
	pidfd   int32
	pid     int32 // 0 until the child is born
	image   int
	program *Program
	forked  chan forked
}

// The Go runtime lets others link to these two, which tell it that a thread is in a system call (gVisor does).

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// Begin starts a child that is born so. It must be Shared, and not Within other namespaces.
func Begin(birth Birth) (*Early, error) {
	ends, err := channel()
	if err != nil {
		return nil, err
	}
	parent, err := sys.PidfdOpen(os.Getpid())
	if err != nil {
		_, _ = unix.Close(ends[0]), unix.Close(ends[1])
		return nil, fmt.Errorf("cannot open the runtime's own process: %w", err)
	}
	e := &Early{
		machine: &machine{channel: uintptr(ends[1]), parents: uintptr(ends[0]), early: true},
		birth:   birth, masks: [2]uint64{^uint64(0)}, ends: ends, parent: parent, forked: make(chan forked, 1), image: -1,
	}
	for i, fd := range []int{ends[1], parent} {
		e.machine.awaited[i] = pollFD{fd: int32(fd), wanted: unix.POLLIN}
	}
	e.args = birth.arguments(&e.pidfd)
	e.args.flags |= unix.CLONE_FILES | unix.CLONE_PARENT_SETTID
	e.args.parentTID = uint64(uintptr(unsafe.Pointer(&e.pid)))
	go func() {
		outcome := e.fork()
		_ = unix.Close(e.ends[1]) // so that the death of the child, which has its own by now, ends the wait for it
		e.forked <- outcome
	}()
	go func() {}() // or another thread would leave the last goroutine to this one for a while, in case it stops soon
	return e, nil
}

// fork waits in clone3 until the child executes something. Go takes it for any system call that lasts.
//
//go:nosplit
//go:norace
//go:noinline
func (e *Early) fork() forked {
	entersyscall()
	e.setMask(0, 1)
	pid, errno := clone(e.args, cloneArgsSize, e.machine)
	e.setMask(1, 0)
	exitsyscall()
	return forked{pid: pid, errno: syscall.Errno(errno), failed: -1}
}

// setMask blocks the signals of one mask and keeps those that were blocked in the other.
//
//go:nosplit
//go:norace
func (e *Early) setMask(to, from int) {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&e.masks[to])), uintptr(unsafe.Pointer(&e.masks[from])), sigsetBytes, 0, 0)
}

// Start gives the child its program. Descriptors that it uses stay open until Finish, as it takes them when it gets there.
func (e *Early) Start(program *Program) (err error) {
	if e.image, err = program.load(e.machine); err != nil {
		return err
	}
	e.program = program
	return e.Release()
}

// Release lets the child go on behind its Wait. If it has died, or could not be born, Finish tells.
func (e *Early) Release() error {
	err := release(e.ends[0])
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) { // a reset means that it had not read all
		return nil
	}
	return err
}

// Pid returns the child's pid, or 0 if it may not be born yet.
func (e *Early) Pid() int { return int(atomic.LoadInt32(&e.pid)) }

// Finish waits until the child has executed something, or its Watch has given up on it. Then it is left to Abandon.
func (e *Early) Finish() (*Process, error) {
	if err := e.await(); err != nil {
		return nil, err
	}
	outcome := e.end()
	if outcome.errno != 0 {
		_ = unix.Close(e.ends[0])
		return nil, outcome.explain(e.birth)
	}
	return &Process{Pid: int(outcome.pid), PidFD: int(e.pidfd), program: e.program, channel: e.ends[0], watch: e.birth.Watch}, nil
}

// await waits until the child says something or has died, and the forking thread is about to be back. A timer of Go's
// would set up what polling takes, which a start of a container does not need otherwise.
func (e *Early) await() error {
	if e.birth.Watch == nil {
		return nil // end waits
	}
	channel := []unix.PollFd{{Fd: int32(e.ends[0]), Events: unix.POLLIN}}
	for asked := time.Now(); ; {
		n, err := unix.Poll(channel, int(max(0, time.Second-time.Since(asked)).Milliseconds())+1)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("cannot wait for the container's process: %w", err)
		case time.Since(asked) < time.Second:
			continue
		}
		asked = time.Now()
		if err := e.birth.Watch(); err != nil {
			return stuckError{err}
		}
	}
}

// end waits until the forking thread is back, and closes what only the child has used.
func (e *Early) end() forked {
	outcome := <-e.forked
	e.forked = nil
	if e.program != nil {
		e.program.keepAlive()
	}
	_ = unix.Close(e.parent)
	if e.image >= 0 {
		_ = unix.Close(e.image)
	}
	return outcome
}

// Abandon ends a child that has not Finished. If it is at work, it ends where it waits for something. One that does not get
// there, as it is frozen or waits for a server, is killed after a while, and left alone if the kernel keeps it nonetheless.
func (e *Early) Abandon() {
	if e.forked == nil {
		return
	}
	_ = unix.Close(e.ends[0]) // the only one: the child shares the descriptors, or has closed its own
	for _, patience := range []time.Duration{time.Second, 10 * time.Second, 0} {
		if e.returns(patience) {
			break
		}
		if patience == 0 {
			e.forked = nil
			return
		}
		if e.Pid() != 0 {
			_ = unix.PidfdSendSignal(int(e.pidfd), unix.SIGKILL, nil, 0)
		}
	}
	if outcome := e.end(); outcome.errno == 0 {
		p := Process{Pid: int(outcome.pid), PidFD: int(e.pidfd), channel: -1}
		p.Kill()
		p.Close()
	}
}

// returns waits for the forking thread, and tells whether it is back.
func (e *Early) returns(patience time.Duration) bool {
	select {
	case outcome := <-e.forked:
		e.forked <- outcome // for end
		return true
	case <-time.After(patience):
		return false
	}
}

// channel returns the parent's end, whose reads are limited, and the child's. A byte always has room: writes don't wait.
func channel() ([2]int, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = limitReads(ends[0])
	}
	if err != nil {
		return ends, fmt.Errorf("cannot create a channel to the container's process: %w", err)
	}
	return ends, nil
}
