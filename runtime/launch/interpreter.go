package launch

import (
	"syscall"
	"unsafe"
)

// Kind is what a message of the child is about.
type Kind uint32

// The messages.
const (
	Failed Kind = iota + 1 // value is index<<indexShift | errno
	Pid                    // value is the process that goes on
	Ready                  // the child has done all but what it waits for
)

// An errno has 12 bits, and the index of an operation the others. The last leg shifts by the same number (clone_*.s).
const (
	indexShift    = 12
	maxOperations = 1 << (32 - indexShift)
)

// message is what the child sends: one datagram.
type message struct {
	kind  Kind
	value uint32
}

// machine is what the child works with: no Go object is reachable from it but through plain memory.
type machine struct {
	operations []operation
	slots      []uintptr
	channel    uintptr
	parents    uintptr // the parent's end of it
	message    message
	mask       uint64 // no signal
	early      bool   // the program is yet to come
	awaited    [2]pollFD
}

// pollFD is struct pollfd of poll(2).
type pollFD struct {
	fd               int32
	wanted, happened int16
}

const (
	exitSetupFailed = 1
	setMask         = 2 // SIG_SETMASK
	sigsetBytes     = 8
	sendFlags       = syscall.MSG_NOSIGNAL
)

// child is where a new process begins.
//
//go:nosplit
//go:norace
func child(m *machine) { m.interpret() }

var _ = child // only clone_*.s calls it, which linters don't read

// interpret is the child's life. It and all it calls are nosplit and use raw system calls only: after the fork there
// is no scheduler, no garbage collector and no other thread, and to grow the stack would deadlock. It never returns.
//
//go:nosplit
//go:norace
//go:noinline
func (m *machine) interpret() {
	// Go has blocked all signals for the fork, and a program inherits what is blocked.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&m.mask)), 0, sigsetBytes, 0, 0)
	if m.early {
		m.awaitProgram()
	}
	// As long as this process has the parent's end too, it would not notice when the parent dies.
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, m.parents, 0, 0)
	for pc := int32(0); pc < int32(len(m.operations)); {
		op := &m.operations[pc]
		result, errno := m.insist(op)
		switch {
		case errno == 0:
			if op.out >= 0 {
				m.slots[op.out] = result
			}
			pc = op.success
		case op.excuses(errno):
			pc = op.excused
		default:
			m.send(Failed, uint32(pc)<<indexShift|uint32(errno))
			exit()
		}
	}
	exit()
}

// maxAgain bounds how often openat2 is tried, as in internal/sys.
const maxAgain = 1 << 14

// insist performs an operation until it has succeeded or failed for good. A call that a signal has interrupted is made
// again, but for close: Linux has closed the descriptor by then. openat2 fails with EAGAIN where a ".." is on the way and
// anything is renamed or mounted on the host meanwhile (see internal/sys).
//
//go:nosplit
//go:norace
func (m *machine) insist(op *operation) (uintptr, syscall.Errno) {
	for again := 0; ; {
		result, errno := m.perform(op)
		switch {
		case errno == syscall.EINTR && op.number == syscall.SYS_CLOSE:
			return 0, 0
		case errno == syscall.EINTR:
		case errno == syscall.EAGAIN && op.number == sysOpenat2 && again < maxAgain:
			again++
		default:
			return result, errno
		}
	}
}

//go:nosplit
//go:norace
func (o *operation) excuses(errno syscall.Errno) bool {
	if o.anyErrno {
		return true
	}
	for _, excused := range o.errnos {
		if excused != 0 && syscall.Errno(excused) == errno {
			return true
		}
	}
	return false
}

//go:nosplit
//go:norace
func (m *machine) argument(op *operation, i int) uintptr {
	if op.slots&(1<<i) != 0 {
		return m.slots[op.args[i]]
	}
	return op.args[i]
}

//go:nosplit
//go:norace
func (m *machine) perform(op *operation) (uintptr, syscall.Errno) {
	if op.number >= pseudo {
		return m.pretend(op, m.argument(op, 0), m.argument(op, 1))
	}
	result, _, errno := syscall.RawSyscall6(op.number, m.argument(op, 0), m.argument(op, 1), m.argument(op, 2),
		m.argument(op, 3), m.argument(op, 4), m.argument(op, 5))
	return result, errno
}

// pretend does the operations that are no system calls. The addresses are of memory that the program has pinned: it
// doesn't move, and the child owns its copy, so to make pointers of them is safe.
//
//go:nosplit
//go:norace
func (m *machine) pretend(op *operation, first, second uintptr) (uintptr, syscall.Errno) {
	switch op.number {
	case opSet:
		return first, 0
	case opStore:
		*(*int32)(pointer(&first)) = int32(second)
	case opStoreWord:
		*(*uintptr)(pointer(&first)) = second
	case opLoad:
		return uintptr(*(*uint64)(pointer(&first)) >> second & uint64(op.args[2])), 0
	case opExpect:
		if *(*uint64)(pointer(&first))&uint64(second) != uint64(m.argument(op, 2)) {
			return 0, syscall.Errno(op.args[3])
		}
	case opFail:
		return 0, syscall.Errno(first)
	case opReport:
		m.send(Kind(first), uint32(second))
	case opWait:
		return 0, m.wait()
	case opStoreOctal:
		digits := (*[4]byte)(pointer(&first))
		for i := len(digits) - 1; i >= 0; i-- {
			digits[i] = byte('0' + second&7)
			second >>= 3
		}
	case opSearch:
		if (*Search)(pointer(&first)).feed(int(second)) {
			return 0, syscall.EAGAIN
		}
	case opSecondFork:
		pid, _, errno := syscall.RawSyscall(sysClone3, first, second, 0)
		if errno != 0 || pid == 0 {
			return 0, errno
		}
		m.send(Pid, uint32(pid))
		exit()
	}
	return 0, 0
}

// awaitProgram waits until the parent has written the program. They share their descriptors meanwhile, so that the child
// gets those that the parent opens for it. Therefore it would not see the other end of the channel close with the
// parent's death, and looks at the parent itself.
//
//go:nosplit
//go:norace
func (m *machine) awaitProgram() {
	for m.awaited[0].happened == 0 {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&m.awaited)), uintptr(len(m.awaited)), 0, 0, 0, 0)
		if m.awaited[1].happened != 0 || errno != 0 && errno != syscall.EINTR {
			exit()
		}
	}
	errno := m.wait()
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(syscall.SYS_UNSHARE, syscall.CLONE_FILES, 0, 0)
	}
	if errno != 0 {
		exit()
	}
}

// pointer reads a word as a pointer. Written like this it is no conversion that vet has to suspect.
//
//go:nosplit
//go:norace
func pointer(word *uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(word)) }

//go:nosplit
//go:norace
func (m *machine) wait() syscall.Errno {
	var released byte
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, m.channel, uintptr(unsafe.Pointer(&released)), 1)
		switch {
		case errno == syscall.EINTR:
		case errno != 0:
			return errno
		case n == 0:
			exit() // the parent is gone and nobody would ever know of this process
		default:
			return 0
		}
	}
}

//go:nosplit
//go:norace
func (m *machine) send(kind Kind, value uint32) {
	m.message = message{kind: kind, value: value}
	for {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, m.channel, uintptr(unsafe.Pointer(&m.message)),
			unsafe.Sizeof(m.message), sendFlags, 0, 0)
		if errno != syscall.EINTR {
			return
		}
	}
}

//go:nosplit
//go:norace
func exit() {
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, exitSetupFailed, 0, 0)
	}
}
