package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// Last is the last leg of a process's way to its program: a few system calls that it makes as another, tiny program.
//
// Up to here the process has been a copy of the runtime, with the runtime's binary as its /proc/PID/exe. If it executed
// a program of the container's, that could be a "#!/proc/self/exe", and whoever is root in the container would get a
// handle to the host's binary (CVE-2019-5736). It is also some megabytes large, while a created container may wait for
// its start for long. So the process executes an image in a memfd first, which is a page of code and its data:
//
//	0x400000  ELF header, code of the leg (clone_*.s)
//	0x600000  word 0: where argv[0] goes · 1: message · 2: channel · 3: nowhere · 4: where argv[1] goes
//	     +64  operations of 12 words: number, six arguments, tolerated errno, two places for the result, wanted result, index
//	     …    memory that the arguments point to
type Last struct {
	program *Program
	legs    []leg
	data    []byte
	path    uint64 // where argv[0] goes
	element uint64 // where argv[1] goes
	kept    []int

	// connection is the channel's descriptor after ReportAndAccept, or 0 while it is the program's.
	connection int
}

type leg struct {
	number        uint64
	args          [6]uint64
	tolerated     uint64
	places        [2]uint64
	wanted, index uint64
}

const (
	codeAddress = 0x400000
	dataAddress = 0x600000
	legsAt      = 64
	maxLegs     = 64
	legSize     = 96
	memoryAt    = legsAt + maxLegs*legSize
	channelAt   = dataAddress + 16
	nowhere     = dataAddress + 24
	codeSize    = 512 // more than the code has
)

func lastCode() *byte

// NewLast returns the program's last leg.
func (p *Program) NewLast() *Last {
	return &Last{program: p, path: nowhere, element: nowhere}
}

// Leg refers to one of the system calls.
type Leg struct {
	last  *Last
	index int
}

// Call adds a system call. Arguments must be numbers or addresses that this Last returned.
func (l *Last) Call(verb, object string, number int, args ...Arg) Leg {
	if len(l.legs) == maxLegs {
		panic("launch: the last leg is too long")
	}
	// Its errors are explained beside those of the program's operations, which they follow.
	l.program.explanations = append(l.program.explanations, explanation{verb: verb, object: object})
	l.program.operations = append(l.program.operations, operation{number: opNever, out: noSlot})
	step := leg{number: uint64(number), places: [2]uint64{nowhere, nowhere}, index: uint64(len(l.program.explanations) - 1)}
	for i, arg := range args {
		step.args[i] = uint64(arg.value)
	}
	l.legs = append(l.legs, step)
	return Leg{last: l, index: len(l.legs) - 1}
}

// Tolerate makes the leg go on after the error.
func (g Leg) Tolerate(errno unix.Errno) Leg {
	g.last.legs[g.index].tolerated = uint64(errno)
	return g
}

// Want ends the process unless the result is n.
func (g Leg) Want(n int) Leg {
	g.last.legs[g.index].wanted = uint64(n)
	return g
}

// Explain replaces the sentence of a failure, as Op.Explain does.
func (g Leg) Explain(failure func(unix.Errno) error) Leg {
	g.last.program.explanations[g.last.legs[g.index].index].failure = failure
	return g
}

// ToChannel makes the result the descriptor to which failures are sent.
func (g Leg) ToChannel() Leg {
	g.last.legs[g.index].places[0] = channelAt
	return g
}

// ToNext makes the result the first argument of the next call.
func (g Leg) ToNext() Leg {
	g.last.legs[g.index].places[1] = dataAddress + legsAt + uint64(g.index+1)*legSize + 8
	return g
}

// TakesPath makes the path with which the leg is entered the call's first argument.
func (g Leg) TakesPath() Leg {
	g.last.path = dataAddress + legsAt + uint64(g.index)*legSize + 8
	return g
}

// TakesChannel makes the channel of the program the call's first argument.
func (g Leg) TakesChannel() Leg {
	g.last.legs[g.index].args[0] = channelAt // replaced by what is there when the image is made
	return g
}

// Keep lets a descriptor stay open until the container's program is executed.
func (l *Last) Keep(fd int) { l.kept = append(l.kept, fd) }

// Bytes lays out memory and returns its address.
func (l *Last) Bytes(content []byte) Arg {
	at := Arg{value: uintptr(dataAddress + memoryAt + len(l.data))}
	l.data = append(l.data, content...)
	l.data = append(l.data, make([]byte, (8-len(l.data)%8)%8)...)
	return at
}

// String lays out s with its terminating zero.
func (l *Last) String(s string) Arg { return l.Bytes(append([]byte(s), 0)) }

// Words lays out numbers and addresses one after the other.
func (l *Last) Words(args ...Arg) Arg {
	content := make([]byte, 0, 8*len(args))
	for _, arg := range args {
		content = binary.NativeEndian.AppendUint64(content, uint64(arg.value))
	}
	return l.Bytes(content)
}

// LastSlice lays out a copy of a slice, whose elements have no pointers.
func LastSlice[T any](l *Last, slice []T) Arg {
	return l.Bytes(unsafe.Slice((*byte)(unsafe.Pointer(&slice[0])), len(slice)*int(unsafe.Sizeof(slice[0]))))
}

// Strings lays out a list as execve wants it.
func (l *Last) Strings(list []string) Arg {
	args := make([]Arg, 0, len(list)+1)
	for _, s := range list {
		args = append(args, l.String(s))
	}
	return l.Words(append(args, Int(0))...)
}

// Replaces makes the string with which the leg is entered the element i of a list that Strings returned.
func (l *Last) Replaces(list Arg, i int) { l.element = uint64(list.value) + 8*uint64(i) }

// Enter adds the entering of the last leg with a path for the call that TakesPath, and a string for the list element that
// it Replaces, or 0. It ends the program.
func (p *Program) Enter(l *Last, path, element Arg) {
	argv := make([]uintptr, 3)
	at := PinSlice(p, argv)
	p.Call("store", "a slot", opStoreWord, at, path)
	p.Call("store", "a slot", opStoreWord, address(unsafe.Pointer(&argv[1])), element)
	keep := func(fd Arg) Op {
		return p.Call("keep", "a descriptor", unix.SYS_FCNTL, fd, Int(unix.F_SETFD), Int(0))
	}
	for _, fd := range l.kept {
		keep(Int(fd))
	}
	p.keepChannel = keep(Int(-1)).index
	null := make([]uintptr, 1)
	p.enterLast = p.Call("execute", "the last leg", unix.SYS_EXECVEAT, Int(-1), p.String(""), at, PinSlice(p, null), Int(unix.AT_EMPTY_PATH)).index
	p.last = l
}

// open makes the image and returns its descriptor.
func (l *Last) open(channel int) (int, error) {
	const name = "berth-runtime"
	write := func(fd int) error { return l.image(channel).write(fd) }
	fd, err := sys.ExecutableFile(name, 0)
	if errors.Is(err, unix.EACCES) {
		fd, err = sys.UnnamedFile(name, write)
	} else if err == nil {
		if err = write(fd); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return -1, fmt.Errorf("cannot create an image for the container's process: %w", err)
	}
	return fd, nil
}

type image struct{ code, data []byte }

func (i image) write(fd int) error {
	if os.Geteuid() == 0 {
		// What can't be read is not dumpable when it is executed, and nobody in the container's user namespace may trace it.
		_ = unix.Fchmod(fd, 0o111)
	}
	for _, part := range []struct {
		at      int
		content []byte
	}{{0, i.code}, {os.Getpagesize(), i.data}} {
		if _, err := unix.Pwrite(fd, part.content, int64(part.at)); err != nil {
			return err
		}
	}
	return nil
}

func (l *Last) image(channel int) image {
	data := make([]byte, 0, memoryAt+len(l.data))
	words := func(numbers ...uint64) {
		for _, number := range numbers {
			data = binary.NativeEndian.AppendUint64(data, number)
		}
	}
	var message [8]byte
	binary.NativeEndian.PutUint32(message[:], uint32(Failed))
	words(l.path, binary.NativeEndian.Uint64(message[:]), uint64(channel), 0, l.element)
	data = append(data, make([]byte, legsAt-len(data))...)
	for _, step := range l.legs {
		if step.args[0] == channelAt {
			step.args[0] = uint64(channel)
		}
		words(step.number)
		words(step.args[:]...)
		words(step.tolerated, step.places[0], step.places[1], step.wanted, step.index)
	}
	data = append(data, make([]byte, memoryAt-len(data))...)
	data = append(data, l.data...)
	return image{code: header(uint64(len(data))), data: data}
}

// header is the ELF header with the code behind it.
func header(dataSize uint64) []byte {
	const (
		executable, loadable, stack = 2, 1, 0x6474e551
		read, write, execute        = 4, 2, 1
		headerSize, segmentSize     = 64, 56
	)
	page, codeEnd := uint64(os.Getpagesize()), uint64(entryAt+codeSize)
	b := append(make([]byte, 0, codeEnd), "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
	halves := func(numbers ...uint16) {
		for _, number := range numbers {
			b = binary.NativeEndian.AppendUint16(b, number)
		}
	}
	words := func(numbers ...uint64) {
		for _, number := range numbers {
			b = binary.NativeEndian.AppendUint64(b, number)
		}
	}
	segment := func(kind, flags uint32, rest ...uint64) {
		b = binary.NativeEndian.AppendUint32(b, kind)
		b = binary.NativeEndian.AppendUint32(b, flags)
		words(rest...)
	}
	halves(executable, machineType, 1, 0)
	words(codeAddress+entryAt, headerSize, 0) // entry, segments, sections
	halves(0, 0, headerSize, segmentSize, 3, 0, 0, 0)
	// offset, address, physical address, size in the file, size in memory, alignment
	segment(loadable, read|execute, 0, codeAddress, 0, codeEnd, codeEnd, page)
	segment(loadable, read|write, page, dataAddress, 0, dataSize, dataSize, page)
	segment(stack, read|write, 0, 0, 0, 0, 0, 16)
	b = b[:codeEnd]
	copy(b[entryAt:], unsafe.Slice(lastCode(), codeSize))
	return b
}

const entryAt = 256 // behind the headers

// ReportAndWait tells the parent that all is ready, and waits for its Release. If the parent dies the process ends.
func (l *Last) ReportAndWait() {
	l.report()
	l.Call("wait for", "the runtime", unix.SYS_READ, Int(0), l.Bytes(make([]byte, 1)), Int(1)).TakesChannel().Want(1)
}

// ReportAndAccept tells the parent that all is ready, and waits for another process to connect to the listening socket
// and to release this one. From then on the channel is the connection.
func (l *Last) ReportAndAccept(listener int) {
	l.Keep(listener)
	l.report()
	l.Call("wait for", "start", unix.SYS_ACCEPT4, Int(listener), Int(0), Int(0), Int(unix.SOCK_CLOEXEC)).ToNext()
	// In the listener's place, so that its number is known.
	l.Call("wait for", "start", unix.SYS_DUP3, Int(0), Int(listener), Int(unix.O_CLOEXEC)).ToChannel().ToNext()
	l.connection = listener
	l.Call("wait for", "start", unix.SYS_READ, Int(0), l.Bytes(make([]byte, 1)), Int(1)).Want(1)
}

// AwaitRelease waits for whoever has released the process already to do so again.
func (l *Last) AwaitRelease(what string) {
	wait := l.Call("wait for", what, unix.SYS_READ, Int(l.connection), l.Bytes(make([]byte, 1)), Int(1)).Want(1)
	if l.connection == 0 {
		wait.TakesChannel()
	}
}

func (l *Last) report() {
	var message [8]byte
	binary.NativeEndian.PutUint32(message[:], uint32(Ready))
	l.Call("tell", "the runtime", unix.SYS_SENDTO, Int(0), l.Bytes(message[:]), Int(len(message)), Int(unix.MSG_NOSIGNAL), Int(0), Int(0)).TakesChannel()
}
