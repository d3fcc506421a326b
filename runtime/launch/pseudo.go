package launch

import "golang.org/x/sys/unix"

// The operations that are no system calls have numbers that no system call has.
const (
	pseudo       = 1 << 20
	opSet        = pseudo + iota // slot out = args[0]
	opStore                      // *(int32)(args[0]) = args[1]
	opExpect                     // fail with errno args[3] unless *(uint64)(args[0]) & args[1] == args[2]
	opFail                       // fail with errno args[0]
	opReport                     // send {args[0], args[1]} to the parent
	opWait                       // receive one byte from the parent
	opStoreWord                  // *(uintptr)(args[0]) = args[1]
	opNever                      // stands for a call of the last leg
	opLoad                       // slot out = *(uint64)(args[0]) >> args[1] & args[2]
	opStoreOctal                 // *[4]byte(args[0]) = args[1] in octal digits
	opSearch                     // feed the *Search args[0] with args[1] bytes of its buffer; EAGAIN if it wants more
	opSecondFork                 // go on in a new process, a sibling of this one: clone3 with args[0], args[1]
)

// Set gives the slot a value.
func (p *Program) Set(slot, value Arg) Op { return p.Call("set", "a slot", opSet, value).Into(slot) }

// Jump goes on at label.
func (p *Program) Jump(label Label) { p.Set(p.NewSlot(), Int(0)).Then(label) }

// Store writes a value of the child's into its memory: the 32-bit number at an address that Pin returned.
func (p *Program) Store(at, value Arg) { p.Call("store", "a slot", opStore, at, value) }

// StoreOctal writes a number of up to four octal digits, such as the mode of a file, as text at an address.
func (p *Program) StoreOctal(at, value Arg) { p.Call("store", "a mode", opStoreOctal, at, value) }

// Load returns a slot with some of the 64 bits at an address that Pin returned.
func (p *Program) Load(at Arg, shift int, mask uint64) Arg {
	return p.Call("load", "a slot", opLoad, at, Int(shift), Int(mask)).Result()
}

// Expect fails with errno unless the 64 bits at an address, masked, have the wanted value.
func (p *Program) Expect(verb, object string, at Arg, want Masked) Op {
	return p.Call(verb, object, opExpect, at, Int(want.Mask), Int(want.Value), Int(want.Errno))
}

// ExpectSame fails with errno unless the 64 bits at an address are those of want.
func (p *Program) ExpectSame(verb, object string, at, want Arg, errno unix.Errno) Op {
	return p.Call(verb, object, opExpect, at, Int(^uint64(0)), want, Int(errno))
}

// Masked is a condition on 64 bits of memory.
type Masked struct {
	Mask, Value uint64
	Errno       unix.Errno
}

// Fail ends the program with an error. A label before it makes a branch of it.
func (p *Program) Fail(verb, object string, errno unix.Errno) Op {
	return p.Call(verb, object, opFail, Int(errno))
}

// Report tells the parent how far the child is.
func (p *Program) Report(kind Kind) {
	p.Call("tell the runtime", "of the progress", opReport, Int(int(kind)), Int(0))
}

// Wait makes the child wait for the parent's Release. If the parent dies the child ends.
func (p *Program) Wait() { p.Call("wait for", "the runtime", opWait) }

// SecondFork goes on in a sibling of the child, because new pid and time namespaces take effect in children only.
func (p *Program) SecondFork(flags uint64) {
	args := &cloneArgs{flags: flags | unix.CLONE_PARENT}
	p.Call("create", "the process in its namespaces", opSecondFork, Pin(p, args), Int(cloneArgsSize))
}

// Close closes a descriptor that a slot holds.
func (p *Program) Close(fd Arg) { p.Call("close", "a descriptor", unix.SYS_CLOSE, fd) }

// WriteFile writes content to an existing file: all of it by one write, as the kernel's own files want it.
func (p *Program) WriteFile(verb, object, path, content string) {
	fd := p.Call(verb, object, unix.SYS_OPENAT, Cwd, p.String(path), Int(unix.O_WRONLY|unix.O_CLOEXEC), Int(0)).Result()
	p.Call(verb, object, unix.SYS_WRITE, fd, p.String(content), Int(len(content)))
	p.Close(fd)
}
