// Package launch makes a process by one fork and a program of system calls that was written down before it.
//
//	parent (ordinary Go)                          child (raw system calls only)
//	────────────────────                          ─────────────────────────────
//	Program: Call, Call, Call …
//	Fork ── clone3 ─────────────────────────────► interpret: operation 0, 1, 2 …
//	join the cgroup, write the user mappings
//	Release ── one byte on the channel ─────────► Wait continues
//	Expect ◄── {pid, ready, failed: index, errno} Report, or the operation that failed
//	                                              execute the last leg: an image that waits for start
//	Expect ◄── end of file ────────────────────── execve closed the channel
//
// Where the parent has nothing to do between, the child shares its memory and the parent waits, as with vfork: a copy
// of the page tables, and of the pages that either writes to, would cost more than all that the child does.
//
// The child is a copy of one thread of a Go program. It can't allocate, grow its stack or take a lock, for the threads
// that hold them were not copied. So everything that it needs is laid out in memory beforehand, and what it finds out
// goes into numbered slots that later operations take as arguments.
package launch

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Arg is an argument of a system call: a number, an address, or the result of an earlier operation.
type Arg struct {
	value    uintptr
	fromSlot bool
}

// Int is a number as an argument.
func Int[N ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](n N) Arg {
	return Arg{value: uintptr(n)}
}

// Cwd stands for the working directory where a directory's descriptor is asked for.
var Cwd = Int(unix.AT_FDCWD)

// Label is a place in the program that a jump leads to.
type Label int

const (
	noSlot    = -1
	nextLabel = Label(0) // a jump to the next operation
	maxErrnos = 4
)

// operation is one step of the child. Its fields are all that the interpreter reads.
type operation struct {
	number   uintptr
	args     [6]uintptr
	slots    uint8 // bit i: args[i] is the number of a slot
	anyErrno bool
	out      int32
	errnos   [maxErrnos]uint16 // that are no failure, zero-terminated
	success  int32             // where to go on, a label until the program is sealed
	excused  int32             // where to go on after one of errnos
}

// explanation is what an operation's failure is called. Only the parent reads it.
type explanation struct {
	verb, object string
	failure      func(errno unix.Errno) error
}

// Program is a list of operations under construction, with the memory that they point to.
type Program struct {
	operations   []operation
	explanations []explanation
	labels       []int32
	slots        int
	text         []byte // where strings are laid out
	pinned       []any

	last                   *Last // nil without one
	enterLast, keepChannel int   // operations whose descriptors Fork fills in
}

// New returns an empty program.
func New() *Program {
	const usual = 768 // operations of a container with runc's default configuration, and some more
	return &Program{
		operations:   make([]operation, 0, usual),
		explanations: make([]explanation, 0, usual),
		labels:       make([]int32, 1, 192), // label 0 is nextLabel
		text:         make([]byte, 0, 16<<10),
	}
}

// Call adds a system call. Verb and object name it in an error: "cannot <verb> <object>: …".
func (p *Program) Call(verb, object string, number int, args ...Arg) Op {
	op := operation{number: uintptr(number), out: noSlot}
	for i, arg := range args {
		op.args[i] = arg.value
		if arg.fromSlot {
			op.slots |= 1 << i
		}
	}
	p.operations = append(p.operations, op)
	p.explanations = append(p.explanations, explanation{verb: verb, object: object})
	return Op{program: p, index: len(p.operations) - 1}
}

// String lays out s with its terminating zero and returns its address.
func (p *Program) String(s string) Arg {
	if len(p.text)+len(s)+1 > cap(p.text) {
		p.pinned = append(p.pinned, p.text)
		p.text = make([]byte, 0, max(16<<10, len(s)+1))
	}
	start := len(p.text)
	p.text = append(append(p.text, s...), 0)
	return address(unsafe.Pointer(&p.text[start]))
}

// Strings lays out a list as execve wants it.
func (p *Program) Strings(list []string) Arg {
	pointers := make([]uintptr, len(list)+1)
	for i, s := range list {
		pointers[i] = p.String(s).value
	}
	return Pin(p, &pointers[0])
}

// Pin keeps *value in place and returns its address. It may point to no Go memory but such as is pinned too.
func Pin[T any](p *Program, value *T) Arg {
	p.pinned = append(p.pinned, value)
	return address(unsafe.Pointer(value))
}

// PinSlice is Pin for the first element of a slice.
func PinSlice[T any](p *Program, slice []T) Arg {
	if len(slice) == 0 {
		return Int(0)
	}
	return Pin(p, &slice[0])
}

// address makes a number of a pointer. The object doesn't move: only stacks do, and what is pinned is on the heap.
func address(pointer unsafe.Pointer) Arg { return Arg{value: uintptr(pointer)} }

// NewSlot returns an empty slot, for a value that several operations may set.
func (p *Program) NewSlot() Arg {
	p.slots++
	return Arg{value: uintptr(p.slots - 1), fromSlot: true}
}

// NewLabel returns a place to jump to. Place says where it is.
func (p *Program) NewLabel() Label {
	p.labels = append(p.labels, -1)
	return Label(len(p.labels) - 1)
}

// Place puts the label before the operation that is added next.
func (p *Program) Place(label Label) { p.labels[label] = int32(len(p.operations)) }

// Op refers to an operation, to say what happens to its result.
type Op struct {
	program *Program
	index   int
}

func (o Op) operation() *operation { return &o.program.operations[o.index] }

// Result returns the slot that the operation's result goes to.
func (o Op) Result() Arg {
	slot := o.program.NewSlot()
	o.Into(slot)
	return slot
}

// Into stores the operation's result in the slot.
func (o Op) Into(slot Arg) Op {
	o.operation().out = int32(slot.value)
	return o
}

// Tolerate makes the program go on after one of these errors, or after every error if there are none given.
func (o Op) Tolerate(errnos ...unix.Errno) Op { return o.OnError(nextLabel, errnos...) }

// OnError makes the program go on at label after one of these errors, or after every error if there are none given.
func (o Op) OnError(label Label, errnos ...unix.Errno) Op {
	op := o.operation()
	op.anyErrno = len(errnos) == 0
	for i, errno := range errnos {
		op.errnos[i] = uint16(errno)
	}
	op.excused = int32(label)
	return o
}

// Then makes the program go on at label after success.
func (o Op) Then(label Label) Op {
	o.operation().success = int32(label)
	return o
}

// Explain replaces the sentence of a failure, where the function has one for the errno: nil leaves it.
func (o Op) Explain(failure func(unix.Errno) error) Op {
	o.program.explanations[o.index].failure = failure
	return o
}

// load makes the program that of the machine, and returns the image of its last leg, or -1.
func (p *Program) load(m *machine) (image int, err error) {
	image = -1
	if len(p.explanations) > maxOperations {
		return -1, fmt.Errorf("cannot write down the setup of the container: it takes %d operations, and %d are the most", len(p.explanations), maxOperations)
	}
	if p.last != nil {
		if image, err = p.last.open(int(m.channel)); err != nil {
			return -1, err
		}
		p.operations[p.enterLast].args[0] = uintptr(image)
		p.operations[p.keepChannel].args[0] = m.channel
	}
	p.seal()
	m.operations, m.slots = p.operations, make([]uintptr, p.slots+1)
	return image, nil
}

// seal turns labels into indices.
func (p *Program) seal() {
	for i := range p.operations {
		op := &p.operations[i]
		op.success = p.target(op.success, i)
		op.excused = p.target(op.excused, i)
	}
}

func (p *Program) target(label int32, from int) int32 {
	if Label(label) == nextLabel {
		return int32(from) + 1
	}
	if p.labels[label] < 0 {
		panic("launch: a jump to a label that was never placed")
	}
	return p.labels[label]
}

// keepAlive marks the end of the time in which the child's memory must stay as it is.
func (p *Program) keepAlive() { runtime.KeepAlive(p) }
