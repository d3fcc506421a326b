package seccomp

import (
	"slices"

	"golang.org/x/sys/unix"
)

// assembler writes a program from its end to its start. All jumps of classic BPF go forward, so that every target is
// already placed when a jump to it is written, and distances are known at once.
type assembler struct {
	reversed []unix.SockFilter
	returns  map[outcome]label // where each outcome was last returned
}

// label is an instruction's place, counted from the program's end: the last instruction has the label 1.
type label int

// maxSkip is how many instructions a conditional jump can skip.
const maxSkip = 255

// emit places an instruction, before all placed so far.
func (a *assembler) emit(code uint16, k uint32) label {
	a.reversed = append(a.reversed, unix.SockFilter{Code: code, K: k})
	return label(len(a.reversed))
}

// distance is what a jump in the next instruction to be placed would have to skip.
func (a *assembler) distance(target label) int { return len(a.reversed) - int(target) }

// ret returns the label of an instruction that ends the program with o.
func (a *assembler) ret(o outcome) label {
	if at, placed := a.returns[o]; placed && a.distance(at) < maxSkip/2 {
		return at
	}
	at := a.emit(opReturn, uint32(o))
	a.returns[o] = at
	return at
}

// branch places a conditional jump, with unconditional ones behind it for targets out of its reach.
func (a *assembler) branch(code uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	yes = a.near(yes, 1)
	no = a.near(no, 0)
	at := a.emit(code, k)
	instruction := &a.reversed[at-1]
	instruction.Jt = uint8(int(at) - 1 - int(yes))
	instruction.Jf = uint8(int(at) - 1 - int(no))
	return at
}

// near returns a label that leads to target and can be reached, also if `more` instructions are placed before the jump.
func (a *assembler) near(target label, more int) label {
	skip := a.distance(target)
	if skip+more <= maxSkip {
		return target
	}
	return a.emit(opJump, uint32(skip))
}

// continueAt makes sure that target is what the next instruction to be placed goes on with.
func (a *assembler) continueAt(target label) {
	if skip := a.distance(target); skip > 0 {
		a.emit(opJump, uint32(skip))
	}
}

// program returns what was written, in the order of execution.
func (a *assembler) program() []unix.SockFilter {
	slices.Reverse(a.reversed)
	return a.reversed
}
