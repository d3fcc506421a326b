// Package signals brings signals to a descriptor, where they are waited for along with others.
//
// Package os/signal does so with two goroutines, each with a thread, which is a fourteenth of what the start of a
// container costs. Here the kernel calls a handler on whatever thread it likes, and the handler writes the signal's
// number to a pipe and returns. It touches nothing of Go's.
package signals

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pipe is the descriptor that the handler writes to: one in each process, as handlers are the process's.
//
// It is a 32-bit number for the handler's sake.
var pipe int32 = -1 //nolint:unused // the handler reads it

// handlerAddress and restorerAddress return where the kernel calls, and what it returns through.
func handlerAddress() uintptr
func restorerAddress() uintptr

// sigaction is the kernel's struct sigaction.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const sigsetBytes = 8

// Catcher is the other end of the pipe.
type Catcher struct{ fd int }

// Catch makes signals of the numbers arrive at the Catcher, in place of what they did before. A process has one at a
// time. Signals which come so fast that the pipe is full are lost.
func Catch(numbers ...unix.Signal) (*Catcher, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("cannot create a pipe for signals: %w", err)
	}
	pipe = int32(ends[1])
	action := sigaction{
		handler: handlerAddress(), restorer: restorerAddress(),
		// On Go's stack for signals: a goroutine's may be too small.
		flags: saOnStack | saRestart | saRestorer, mask: ^uint64(0),
	}
	for _, number := range numbers {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(number), uintptr(unsafe.Pointer(&action)), 0, sigsetBytes, 0, 0)
		if errno != 0 {
			return nil, fmt.Errorf("cannot catch signal %d: %w", number, errno)
		}
	}
	return &Catcher{fd: ends[0]}, nil
}

const (
	saOnStack = 0x08000000
	saRestart = 0x10000000
)

// FD becomes readable when a signal has come.
func (c *Catcher) FD() int { return c.fd }

// Next returns a signal that has come, oldest first.
func (c *Catcher) Next() (number unix.Signal, ok bool) {
	var b [1]byte
	for {
		n, err := unix.Read(c.fd, b[:])
		if !errors.Is(err, unix.EINTR) {
			return unix.Signal(b[0]), n == 1
		}
	}
}
