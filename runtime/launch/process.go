package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// Release lets the child go on behind its Wait.
func (p *Process) Release() error { return release(p.channel) }

func release(channel int) error {
	if _, err := unix.Write(channel, []byte{1}); err != nil {
		return fmt.Errorf("cannot release the container's process: %w", err)
	}
	return nil
}

// ErrEnded is returned by Expect when the child has closed its channel: it runs its program, or has died.
var ErrEnded = errors.New("the container's process ended during its setup")

// Expect waits for the child's next message and returns its value. It returns the child's own error if it has failed,
// and ErrEnded if nothing more will come.
func (p *Process) Expect(want Kind) (uint32, error) {
	kind, value, err := p.receive()
	switch {
	case errors.Is(err, io.EOF):
		return 0, ErrEnded
	case isStuck(err):
		return 0, err
	case err != nil:
		return 0, fmt.Errorf("cannot hear from the container's process: %w", err)
	case kind == Failed:
		return 0, p.program.failure(value)
	case kind != want:
		return 0, fmt.Errorf("cannot start the container: its process sent message %d instead of %d", kind, want)
	}
	return value, nil
}

// Executed waits until the child has executed its program. ErrEnded is success here, as nothing else closes the
// channel but death, which the caller sees in the exit status.
func (p *Process) Executed() error {
	_, err := p.Expect(0)
	if errors.Is(err, ErrEnded) {
		return nil
	}
	return err
}

// Follow makes p stand for the sibling that the child's SecondFork has made, and reaps the child.
func (p *Process) Follow() error {
	pid, err := p.expectEarly(Pid)
	if err != nil {
		return err
	}
	pidfd, err := sys.PidfdOpen(int(pid))
	if err != nil {
		return fmt.Errorf("cannot open the container's process: %w", err)
	}
	_, _ = p.Reap()
	_ = unix.Close(p.PidFD)
	p.Pid, p.PidFD = int(pid), pidfd
	return nil
}

// expectEarly is Expect for a message that others may overtake: the sibling may be further than who tells of it.
func (p *Process) expectEarly(want Kind) (uint32, error) {
	for {
		kind, value, err := receive(p.channel, p.watch)
		switch {
		case err != nil:
			return p.Expect(want) // which knows of a failure that came before
		case kind == want:
			return value, nil
		}
		p.early = append(p.early, message{kind, value})
	}
}

// receive waits for a message, unless there is one already.
func (p *Process) receive() (Kind, uint32, error) {
	if len(p.early) == 0 {
		return receive(p.channel, p.watch)
	}
	first := p.early[0]
	p.early = p.early[1:]
	return first.kind, first.value, nil
}

// Kill ends the child and reaps it. A child that the kernel keeps, as one that is frozen or waits for a server, is left to
// init after a while.
func (p *Process) Kill() {
	_ = unix.PidfdSendSignal(p.PidFD, unix.SIGKILL, nil, 0)
	const patience = 10 * time.Second
	for deadline := time.Now().Add(patience); ; {
		ended := []unix.PollFd{{Fd: int32(p.PidFD), Events: unix.POLLIN}}
		n, err := unix.Poll(ended, int(time.Until(deadline).Milliseconds()))
		if n > 0 {
			_, _ = p.Reap()
			return
		}
		if !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return
		}
	}
}

// Reap waits for the child's end and returns its status.
func (p *Process) Reap() (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(p.Pid, &status, 0, nil)
		if err != unix.EINTR {
			return status, err
		}
	}
}

// Close closes the descriptors. The child lives on.
func (p *Process) Close() {
	_ = unix.Close(p.channel)
	_ = unix.Close(p.PidFD)
}

// receive waits without telling Go's scheduler. The child needs some hundred microseconds, and to hand this thread's
// work to another one costs more of them than there are. A channel whose reads end after a second lets watch, which may be
// nil, end the wait.
func receive(channel int, watch func() error) (Kind, uint32, error) {
	var buffer [8]byte
	var asked time.Time // when watch was
	reset := false
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(channel), uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)))
		switch {
		case errno == unix.EINTR || errno == unix.EAGAIN:
			// Go's scheduler interrupts the read more often than it times out, so that the time is taken here.
			if asked.IsZero() {
				asked = time.Now()
			}
			if watch == nil || time.Since(asked) < time.Second {
				continue
			}
			asked = time.Now()
			if err := watch(); err != nil {
				return 0, 0, stuckError{err}
			}
		case errno == unix.ECONNRESET && !reset: // it has ended before it was released, and what it has said comes behind
			reset = true
		case errno != 0:
			return 0, 0, errno
		case n == 0:
			return 0, 0, io.EOF
		case n != uintptr(len(buffer)):
			return 0, 0, io.ErrUnexpectedEOF
		default:
			return Kind(binary.NativeEndian.Uint32(buffer[:4])), binary.NativeEndian.Uint32(buffer[4:]), nil
		}
	}
}

// errnoOf is the errno of a message that an operation has failed.
func errnoOf(value uint32) unix.Errno { return unix.Errno(value & (1<<indexShift - 1)) }

// failure turns an index and an errno into a sentence.
func (p *Program) failure(value uint32) error {
	index, errno := int(value>>indexShift), errnoOf(value)
	if index >= len(p.explanations) {
		return fmt.Errorf("cannot start the container: operation %d failed: %w", index, errno)
	}
	e := p.explanations[index]
	if e.failure != nil {
		if err := e.failure(errno); err != nil {
			return err
		}
	}
	if errno == unix.ENOSYS {
		return fmt.Errorf("cannot %s %s: %w (it takes Linux 5.15, and no filter that hides its system calls)", e.verb, e.object, errno)
	}
	return fmt.Errorf("cannot %s %s: %w", e.verb, e.object, errno)
}

// Unless prefers the child's own error, if it has failed, to what failed for its parent because of that.
func (p *Process) Unless(err error) error {
	if err == nil {
		return nil
	}
	ready := []unix.PollFd{{Fd: int32(p.channel), Events: unix.POLLIN}}
	const patience = 100 // milliseconds for a child that is gone to have said why
	if n, pollErr := unix.Poll(ready, patience); len(p.early) > 0 || n == 1 && pollErr == nil {
		if kind, value, readErr := p.receive(); readErr == nil && kind == Failed {
			return p.program.failure(value)
		}
	}
	return err
}

// stuckError is what a watch says.
type stuckError struct{ error }

func (s stuckError) Unwrap() error { return s.error }

func isStuck(err error) bool {
	var stuck stuckError
	return errors.As(err, &stuck)
}

// Limit makes the reads of a channel end after a second, so that the waiting can be given up, and connecting it as well.
func Limit(channel int) error {
	second := unix.NsecToTimeval(int64(time.Second))
	if err := limitReads(channel); err != nil {
		return err
	}
	return unix.SetsockoptTimeval(channel, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &second)
}

func limitReads(channel int) error {
	second := unix.NsecToTimeval(int64(time.Second))
	return unix.SetsockoptTimeval(channel, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second)
}

// Await is Release and Executed for a process that has switched its channel to this one, whose program another call of
// the runtime wrote: of a failure only the number is known, and explain makes an error of it. The channel is one with a
// Limit, at which watch is asked.
func Await(channel int, watch func() error, explain func(unix.Errno) error) error {
	if err := release(channel); err != nil {
		return err
	}
	return Outcome(channel, watch, explain)
}

// Outcome is Await for a child that has been released before.
func Outcome(channel int, watch func() error, explain func(unix.Errno) error) error {
	kind, value, err := receive(channel, watch)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case isStuck(err):
		return err
	case err != nil:
		return fmt.Errorf("cannot hear from the container's process: %w", err)
	case kind != Failed:
		return fmt.Errorf("cannot start the container: its process sent message %d", kind)
	}
	return explain(errnoOf(value))
}

// Adopt returns a child of this process that was not forked by Fork.
func Adopt(pid int) (*Process, error) {
	pidfd, err := sys.PidfdOpen(pid)
	if err != nil {
		return nil, fmt.Errorf("cannot open process %d: %w", pid, err)
	}
	return &Process{Pid: pid, PidFD: pidfd, channel: -1}, nil
}
