package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// condition is a comparison of an argument, unsigned, with 64 or 32 bits. All operators come down to three, as each
// has an opposite.
type condition struct {
	kind        comparison
	index       uint
	value, mask uint64
	negated     bool
}

type comparison int

const (
	equal   comparison = iota // argument&mask == value
	greater                   // argument > value
	atLeast                   // argument >= value
)

const allBits = ^uint64(0)

func parseCondition(field string, arg specs.LinuxSeccompArg) (condition, error) {
	c := condition{index: arg.Index, value: arg.Value, mask: allBits}
	if arg.Index > 5 {
		return c, invalid(field+".index", "%d is not from 0 to 5", arg.Index)
	}
	switch arg.Op {
	case specs.OpEqualTo:
	case specs.OpNotEqual:
		c.negated = true
	case specs.OpGreaterThan:
		c.kind = greater
	case specs.OpLessEqual:
		c.kind, c.negated = greater, true
	case specs.OpGreaterEqual:
		c.kind = atLeast
	case specs.OpLessThan:
		c.kind, c.negated = atLeast, true
	case specs.OpMaskedEqual:
		c.mask = arg.Value
		c.value = arg.ValueTwo & arg.Value // as libseccomp: bits outside the mask don't count on either side
	default:
		return c, invalid(field+".op", "%q is not an operator", arg.Op)
	}
	return c, nil
}

const (
	opLoad    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opReturn  = unix.BPF_RET | unix.BPF_K
	opJump    = unix.BPF_JMP | unix.BPF_JA
	opEqual   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opGreater = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opAtLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
)

// Offsets in struct seccomp_data. An argument has its lower half first, as all our machines are little endian.
const (
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16
	halfArgument    = 4
)

// check emits the comparison and returns its entry. It leads to yes or no.
func (a *assembler) check(c condition, is32 bool, yes, no label) label {
	if c.negated {
		yes, no = no, yes
	}
	if yes == no {
		return yes
	}
	low := uint32(offsetArguments + 8*c.index)
	lower := a.compareHalf(c.kind, half{low, uint32(c.value), uint32(c.mask)}, yes, no)
	if is32 {
		return lower
	}
	high := half{low + halfArgument, uint32(c.value >> 32), uint32(c.mask >> 32)}
	switch {
	case c.kind == equal && high.mask == 0:
		return lower
	case c.kind == equal:
		return a.compareHalf(c.kind, high, lower, no)
	}
	same := a.branch(opEqual, high.value, lower, no)
	a.branch(opGreater, high.value, yes, same)
	return a.emit(opLoad, high.offset)
}

// half is 32 bits of an argument, and what they are compared with.
type half struct{ offset, value, mask uint32 }

func (a *assembler) compareHalf(kind comparison, h half, yes, no label) label {
	op := uint16(opEqual)
	switch kind {
	case greater:
		op = opGreater
	case atLeast:
		op = opAtLeast
	}
	a.branch(op, h.value, yes, no)
	if h.mask != ^uint32(0) {
		a.emit(opAnd, h.mask)
	}
	return a.emit(opLoad, h.offset)
}
