package seccomp

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// abi is a column of the table of system calls.
type abi int

const (
	x8664 abi = iota
	x86
	x32
	aarch64
	arm
	abis
)

// x32Bit is set in the numbers of x32's system calls, which share x86-64's architecture.
const x32Bit = 0x40000000

// syscallNumbers are those of one system call by abi, or -1.
type syscallNumbers struct {
	name    string
	numbers [abis]int32
	also    multiplexed
}

// multiplexed is the older way in which x86 makes a call: through another one, with a selector in the first argument.
type multiplexed struct {
	by       uint16 // socketcall or ipc; 0 for most calls
	selector uint8
}

// The numbers of the calls that stand for others.
const (
	socketcall = 102
	ipc        = 117
)

// condition tells the multiplexed call apart. ipc keeps a version in the upper bits.
func (m multiplexed) condition() condition {
	c := condition{value: uint64(m.selector), mask: allBits}
	if m.by == ipc {
		c.mask = 0xffff
	}
	return c
}

// is32 tells whether arguments have 32 bits. What the kernel shows in the upper half is not the program's then.
func (a abi) is32() bool { return a == x86 || a == x32 || a == arm }

// number returns a system call's number as the kernel shows it to a filter.
func (a abi) number(call *syscallNumbers) (uint32, bool) {
	number := call.numbers[a]
	if number < 0 {
		return 0, false
	}
	if a == x32 {
		return uint32(number) | x32Bit, true
	}
	return uint32(number), true
}

// find returns the numbers of the system call with the given name, or nil if no architecture has it.
func find(name string) *syscallNumbers {
	low, high := 0, len(syscalls)
	for low < high { // by hand, as a profile has hundreds of names and a call of a function each step doubles the time
		middle := (low + high) / 2
		if syscalls[middle].name < name {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == len(syscalls) || syscalls[low].name != name {
		return nil
	}
	return &syscalls[low]
}

// section is the part of a filter for one architecture as the kernel tells them apart.
type section struct {
	audit uint32
	abis  []abi
}

// known lists the architectures of the specification, those that no machine of ours can run included.
const known = " SCMP_ARCH_X86 SCMP_ARCH_X86_64 SCMP_ARCH_X32 SCMP_ARCH_ARM SCMP_ARCH_AARCH64 SCMP_ARCH_MIPS SCMP_ARCH_MIPS64" +
	" SCMP_ARCH_MIPS64N32 SCMP_ARCH_MIPSEL SCMP_ARCH_MIPSEL64 SCMP_ARCH_MIPSEL64N32 SCMP_ARCH_PPC SCMP_ARCH_PPC64" +
	" SCMP_ARCH_PPC64LE SCMP_ARCH_S390 SCMP_ARCH_S390X SCMP_ARCH_PARISC SCMP_ARCH_PARISC64 SCMP_ARCH_RISCV64" +
	" SCMP_ARCH_LOONGARCH64 SCMP_ARCH_M68K SCMP_ARCH_SH SCMP_ARCH_SHEB "

// sections returns what the filter must distinguish on a machine of the given native architecture: always the native
// one, and of the others those in the profile that this machine can run.
func sections(machine string, architectures []specs.Arch) ([]section, error) {
	wants := func(name specs.Arch) bool { return slices.Contains(architectures, name) }
	for i, name := range architectures {
		if name == "" || strings.Contains(string(name), " ") || !strings.Contains(known, " "+string(name)+" ") {
			return nil, invalid(at("architectures", i), "%q is not an architecture", name)
		}
	}
	var list []section
	switch machine {
	case "amd64":
		native := section{audit: unix.AUDIT_ARCH_X86_64, abis: []abi{x8664}}
		if wants(specs.ArchX32) {
			native.abis = append(native.abis, x32)
		}
		list = append(list, native)
		if wants(specs.ArchX86) {
			list = append(list, section{audit: unix.AUDIT_ARCH_I386, abis: []abi{x86}})
		}
	case "arm64":
		list = append(list, section{audit: unix.AUDIT_ARCH_AARCH64, abis: []abi{aarch64}})
		if wants(specs.ArchARM) {
			list = append(list, section{audit: unix.AUDIT_ARCH_ARM, abis: []abi{arm}})
		}
	default:
		return nil, unsupported("", "there is no seccomp for "+machine+" yet")
	}
	return list, nil
}
