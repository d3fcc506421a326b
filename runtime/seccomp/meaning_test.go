package seccomp

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// evaluate says what a profile means, in the plainest way.
func evaluate(t testing.TB, profile *specs.LinuxSeccomp, abi abi, e event) outcome {
	t.Helper()
	fallback, err := parseAction("", "", profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		t.Fatal(err)
	}
	highest, conditional := int64(-1), []outcome{}
	for _, entry := range profile.Syscalls {
		result, err := parseAction("", "", entry.Action, entry.ErrnoRet)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range entry.Names {
			call := find(name)
			if call == nil {
				continue
			}
			if strict := result.severity() < fallback.severity(); abi == x86 && (len(entry.Args) == 0 || strict) {
				highest = max(highest, int64(call.also.by)) // which makes the same call
			}
			n, ok := abi.number(call)
			if !ok {
				continue
			}
			highest = max(highest, int64(n))
			if n != e.number || result == fallback {
				continue
			}
			if len(entry.Args) == 0 {
				return result
			}
			if fulfils(e, entry.Args, abi.is32()) {
				conditional = append(conditional, result)
			}
		}
	}
	switch {
	case len(conditional) > 0:
		return conditional[0]
	case int64(e.number) > highest && highest >= 0 && !fallback.permits():
		return fail | outcome(unix.ENOSYS)
	}
	return fallback
}

// fulfils tells whether a call is what the conditions say: all of them, or any if there are several on one argument.
func fulfils(e event, args []specs.LinuxSeccompArg, is32 bool) bool {
	matching, indexes := 0, map[uint]bool{}
	for _, arg := range args {
		indexes[arg.Index] = true
		if compare(e.args[arg.Index], arg, is32) {
			matching++
		}
	}
	return matching == len(args) || matching > 0 && len(indexes) < len(args)
}

func compare(value uint64, arg specs.LinuxSeccompArg, is32 bool) bool {
	one, two := arg.Value, arg.ValueTwo
	if is32 {
		value, one, two = value&0xffffffff, one&0xffffffff, two&0xffffffff
	}
	switch arg.Op {
	case specs.OpEqualTo:
		return value == one
	case specs.OpNotEqual:
		return value != one
	case specs.OpGreaterThan:
		return value > one
	case specs.OpGreaterEqual:
		return value >= one
	case specs.OpLessThan:
		return value < one
	case specs.OpLessEqual:
		return value <= one
	default:
		return value&one == two&one
	}
}

// randomProfile makes a profile out of seeds. Each call has at most one rule without conditions, and any number with.
func randomProfile(random *rand.Rand) *specs.LinuxSeccomp {
	pick := func(values ...uint64) uint64 { return values[random.IntN(len(values))] }
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActTrap, specs.ActLog, specs.ActTrace, specs.ActKillThread}
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpMaskedEqual}
	profile := &specs.LinuxSeccomp{
		DefaultAction: actions[random.IntN(len(actions))],
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX32, specs.ArchX86, specs.ArchAARCH64, specs.ArchARM},
	}
	unconditional := map[string]bool{}
	for range random.IntN(40) {
		entry := specs.LinuxSyscall{Action: actions[random.IntN(len(actions))]}
		for index := range uint(6) {
			if random.IntN(6) == 0 {
				value := pick(0, 1, 5, 1<<31, 1<<32, 1<<40|7, ^uint64(0), random.Uint64())
				entry.Args = append(entry.Args, specs.LinuxSeccompArg{Index: index, Value: value, ValueTwo: pick(0, value, 1), Op: ops[random.IntN(len(ops))]})
			}
		}
		for range 1 + random.IntN(20) {
			call := syscalls[random.IntN(len(syscalls))]
			if call.also.by != 0 || len(entry.Args) == 0 && unconditional[call.name] {
				continue
			}
			unconditional[call.name] = unconditional[call.name] || len(entry.Args) == 0
			entry.Names = append(entry.Names, call.name)
		}
		if len(entry.Names) > 0 {
			profile.Syscalls = append(profile.Syscalls, entry)
		}
	}
	return profile
}

// checkMeaning compares the compiled filter with the plain evaluation, on every call of each architecture.
func checkMeaning(t *testing.T, profile *specs.LinuxSeccomp, random *rand.Rand) {
	t.Helper()
	interesting := []uint64{0, 1, 5, 6, 1 << 31, 1 << 32, 1<<40 | 7, ^uint64(0)}
	for _, machine := range []struct {
		name  string
		abis  []abi
		audit []uint32
	}{
		{"amd64", []abi{x8664, x86, x32}, []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_X86_64}},
		{"arm64", []abi{aarch64, arm}, []uint32{unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM}},
	} {
		program := mustCompile(t, profile, machine.name)
		for i, abi := range machine.abis {
			for n := range uint32(600) {
				e := event{number: n, arch: machine.audit[i]}
				if abi == x32 {
					e.number |= x32Bit
				}
				for k := range e.args {
					e.args[k] = interesting[random.IntN(len(interesting))]
				}
				want := evaluate(t, profile, abi, e)
				if got := execute(t, program, e); got != want {
					t.Fatalf("%s, abi %d, %+v: %#x, want %#x", machine.name, abi, e, uint32(got), uint32(want))
				}
			}
		}
	}
}

func TestRandomProfiles(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			checkMeaning(t, randomProfile(random), random)
		})
	}
}

// FuzzCompile turns bytes into seeds of profiles, each of which has to mean what it says.
func FuzzCompile(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Add(uint64(77), uint64(0))
	f.Fuzz(func(t *testing.T, one, two uint64) {
		random := rand.New(rand.NewPCG(one, two))
		checkMeaning(t, randomProfile(random), random)
	})
}

func BenchmarkDockersDefaultProfile(b *testing.B) {
	profile := dockerDefault(b)
	profile.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	for b.Loop() {
		if _, err := compile(profile, "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}
