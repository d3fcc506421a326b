package seccomp

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// choices turns the bytes of a fuzzer into a profile: a changed byte changes one thing about it.
type choices struct{ rest []byte }

func (c *choices) below(n int) int {
	if len(c.rest) == 0 {
		return 0
	}
	first := c.rest[0]
	c.rest = c.rest[1:]
	return int(first) % n
}

func pick[T any](c *choices, values ...T) T { return values[c.below(len(values))] }

// seldom is the mistake for few of the bytes, and else what else comes to: profiles with more would all be refused.
func seldom[T any](c *choices, mistake T, otherwise func() T) T {
	if c.below(64) == 63 {
		return mistake
	}
	return otherwise()
}

func (c *choices) number() uint64 {
	if c.below(2) == 0 {
		return pick(c, 0, 1, 5, 0xff, 1<<31, 1<<32-1, 1<<32, 1<<40|7, ^uint64(0))
	}
	var b [8]byte
	n := copy(b[:], c.rest)
	c.rest = c.rest[n:]
	return binary.LittleEndian.Uint64(b[:])
}

func (c *choices) action() (specs.LinuxSeccompAction, *uint) {
	action := seldom(c, "SCMP_ACT_NONE", func() specs.LinuxSeccompAction {
		return pick(c, specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActTrap, specs.ActLog, specs.ActTrace, specs.ActKillThread, specs.ActKill)
	})
	action = seldom(c, specs.ActNotify, func() specs.LinuxSeccompAction { return action })
	errno := seldom(c, 1<<16, func() uint { return pick[uint](c, 0, 0, 1, 38, 1<<16-1) })
	if takesErrno := action == specs.ActErrno || action == specs.ActTrace; !takesErrno && c.below(16) != 1 {
		return action, nil
	}
	return action, &errno
}

func (c *choices) name() string {
	switch c.below(8) {
	case 0:
		return pick(c, "nonsense", "", "socket", "semop", "arm_fadvise64_64", "mmap2", "uretprobe")
	case 1:
		return pick(c, syscalls[0].name, syscalls[len(syscalls)-1].name)
	}
	return syscalls[(c.below(256)*256+c.below(256))%len(syscalls)].name
}

func (c *choices) profile() *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{ListenerPath: pick(c, "", "/listener")}
	p.DefaultAction, p.DefaultErrnoRet = c.action()
	for range c.below(5) {
		p.Architectures = append(p.Architectures, seldom(c, "SCMP_ARCH_", func() specs.Arch {
			return pick(c, specs.ArchX86_64, specs.ArchX32, specs.ArchX86, specs.ArchAARCH64, specs.ArchARM, specs.ArchMIPS)
		}))
	}
	for len(c.rest) > 0 && len(p.Syscalls) < 20 {
		var entry specs.LinuxSyscall
		entry.Action, entry.ErrnoRet = c.action()
		for range 1 + c.below(6) {
			entry.Names = append(entry.Names, c.name())
		}
		for range c.below(5) {
			arg := specs.LinuxSeccompArg{Index: seldom(c, 6, func() uint { return uint(c.below(6)) }), Value: c.number(), ValueTwo: c.number()}
			arg.Op = seldom(c, "SCMP_CMP_NONE", func() specs.LinuxSeccompOperator {
				return pick(c, specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpMaskedEqual)
			})
			entry.Args = append(entry.Args, arg)
		}
		p.Syscalls = append(p.Syscalls, entry)
	}
	return p
}

// checkProgram refuses what the kernel would.
func checkProgram(t *testing.T, program []unix.SockFilter) {
	t.Helper()
	if len(program) == 0 || len(program) > maxProgram {
		t.Fatalf("%d instructions", len(program))
	}
	for pc, in := range program {
		skip := 0
		switch in.Code {
		case opJump:
			skip = int(in.K)
		case opEqual, opGreater, opAtLeast:
			skip = max(int(in.Jt), int(in.Jf))
		case opLoad:
			if in.K%4 != 0 || in.K > 60 {
				t.Fatalf("instruction %d loads from %d", pc, in.K)
			}
		case opAnd, opReturn:
		default:
			t.Fatalf("instruction %d has the code %#x", pc, in.Code)
		}
		if next := pc + 1 + skip; next > len(program) || next == len(program) && in.Code != opReturn {
			t.Fatalf("instruction %d leads out of the program", pc)
		}
	}
}

// events are calls that the profile has something to say of, and the ones next to them.
func events(p *specs.LinuxSeccomp, abi abi, audit uint32) []event {
	var all []event
	for _, entry := range p.Syscalls {
		for _, name := range entry.Names {
			call := find(name)
			if call == nil {
				continue
			}
			number, ok := abi.number(call)
			if !ok {
				continue
			}
			for delta := range uint32(3) {
				e := event{number: number + delta - 1, arch: audit}
				all = append(all, e)
				for i, arg := range entry.Args {
					e.args[arg.Index%6] = arg.Value + uint64(i%3) - 1 + uint64(delta)
					all = append(all, e)
				}
			}
		}
	}
	return all
}

// FuzzProfile compiles profiles with everything that may be in one, mistakes included. What comes of it is a program
// that the kernel takes and that does what the profile says, or a refusal.
func FuzzProfile(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x03\x00\x01\x02\x01\x00\x03\x02\x00\x10\x02\x00\x20\x01\x01\x00\x05\x00\x05\x06"))
	f.Add([]byte("\x00\x01\x00\x02\x02\x04\x00\x00\x04\x01\x01\x01\x00\x00\x02\x00\x00\x00\x00\x02\x00\x00\x01\x00\x03"))
	f.Fuzz(func(t *testing.T, data []byte) {
		profile := (&choices{data}).profile()
		for machine, audits := range map[string]map[abi]uint32{
			"amd64": {x8664: unix.AUDIT_ARCH_X86_64, x32: unix.AUDIT_ARCH_X86_64, x86: unix.AUDIT_ARCH_I386},
			"arm64": {aarch64: unix.AUDIT_ARCH_AARCH64, arm: unix.AUDIT_ARCH_ARM},
		} {
			filter, err := compile(profile, machine)
			if err != nil {
				if !errors.Is(err, errdefs.ErrInvalidArgument) {
					t.Fatalf("%s: %v", machine, err)
				}
				return
			}
			checkProgram(t, filter.Program)
			wanted, err := sections(machine, profile.Architectures)
			if err != nil {
				t.Fatal(err)
			}
			for _, section := range wanted {
				for _, abi := range section.abis {
					for _, e := range events(profile, abi, audits[abi]) {
						multiplexed := abi == x86 && (e.number == socketcall || e.number == ipc) // which TestMultiplexedCalls is about
						if beyond := e.number&x32Bit != 0 != (abi == x32); multiplexed || beyond {
							continue
						}
						want := evaluate(t, profile, abi, e)
						if got := execute(t, filter.Program, e); got != want {
							t.Fatalf("%s, abi %d, %+v: %#x, want %#x", machine, abi, e, uint32(got), uint32(want))
						}
					}
				}
			}
		}
	})
}
