package seccomp

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// event is a system call as the kernel shows it to a filter.
type event struct {
	number, arch uint32
	args         [6]uint64
}

// execute runs a program as the kernel would.
func execute(t testing.TB, program []unix.SockFilter, e event) outcome {
	t.Helper()
	data := binary.LittleEndian.AppendUint32(nil, e.number)
	data = binary.LittleEndian.AppendUint32(data, e.arch)
	data = binary.LittleEndian.AppendUint64(data, 0)
	for _, arg := range e.args {
		data = binary.LittleEndian.AppendUint64(data, arg)
	}
	var a uint32
	for pc := 0; pc < len(program); pc++ {
		in := program[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case opLoad:
			a = binary.LittleEndian.Uint32(data[in.K:])
		case opAnd:
			a &= in.K
		case opReturn:
			return outcome(in.K)
		case opJump:
			pc += int(in.K)
		case opEqual:
			jump(a == in.K)
		case opGreater:
			jump(a > in.K)
		case opAtLeast:
			jump(a >= in.K)
		default:
			t.Fatalf("instruction %d has the unknown code %#x", pc, in.Code)
		}
	}
	t.Fatalf("the program runs off its end")
	return 0
}

func mustCompile(t testing.TB, profile *specs.LinuxSeccomp, machine string) []unix.SockFilter {
	t.Helper()
	filter, err := compile(profile, machine)
	if err != nil {
		t.Fatal(err)
	}
	return filter.Program
}

func number(t testing.TB, abi abi, name string) uint32 {
	t.Helper()
	call := find(name)
	if call == nil {
		t.Fatalf("no system call %s", name)
	}
	n, ok := abi.number(call)
	if !ok {
		t.Fatalf("%s has no number", name)
	}
	return n
}

func TestTableIsSorted(t *testing.T) {
	if !slices.IsSortedFunc(syscalls[:], func(a, b syscallNumbers) int { return strings.Compare(a.name, b.name) }) {
		t.Error("the table is not sorted by name")
	}
	if find("process_vm_") != nil || find("") != nil || find("zzz") != nil {
		t.Error("found a system call that does not exist")
	}
	for name, want := range map[string]syscallNumbers{
		"read":       {numbers: [...]int32{0, 3, 0, 63, 3}},
		"ioctl":      {numbers: [...]int32{16, 54, 514, 29, 54}},
		"socket":     {numbers: [...]int32{41, 359, 41, 198, 281}, also: multiplexed{socketcall, 1}},
		"shmctl":     {numbers: [...]int32{31, 396, 31, 195, 308}, also: multiplexed{ipc, 24}},
		"newfstatat": {numbers: [...]int32{262, -1, 262, 79, -1}},
		"set_tls":    {numbers: [...]int32{-1, -1, -1, -1, 0xf0005}},
		"_sysctl":    {numbers: [...]int32{156, 149, -1, -1, 149}},
		"preadv2":    {numbers: [...]int32{327, 378, 546, 286, 392}},
		"futex_wait": {numbers: [...]int32{455, 455, 455, 455, 455}},
		"arch_prctl": {numbers: [...]int32{158, 384, 158, -1, -1}},
		"open_tree":  {numbers: [...]int32{428, 428, 428, 428, 428}},
		"semtimedop": {numbers: [...]int32{220, -1, 220, 192, 312}, also: multiplexed{ipc, 4}},
	} {
		call := find(name)
		if call == nil || call.numbers != want.numbers || call.also != want.also {
			t.Errorf("%s: %+v, want %+v", name, call, want)
		}
	}
}

func TestOperators(t *testing.T) {
	const big = 0x1_0000_0005
	values := []uint64{0, 4, 5, 6, 0xffffffff, 1 << 32, big - 1, big, big + 1, 5 << 32, ^uint64(0)}
	holds := map[specs.LinuxSeccompOperator]func(arg, value uint64) bool{
		specs.OpEqualTo:      func(a, v uint64) bool { return a == v },
		specs.OpNotEqual:     func(a, v uint64) bool { return a != v },
		specs.OpGreaterThan:  func(a, v uint64) bool { return a > v },
		specs.OpGreaterEqual: func(a, v uint64) bool { return a >= v },
		specs.OpLessThan:     func(a, v uint64) bool { return a < v },
		specs.OpLessEqual:    func(a, v uint64) bool { return a <= v },
	}
	for op, holds := range holds {
		for _, value := range values {
			for index := range uint(6) {
				profile := conditional(specs.LinuxSeccompArg{Index: index, Value: value, Op: op})
				program := mustCompile(t, profile, "amd64")
				for _, arg := range values {
					e := event{number: number(t, x8664, "personality"), arch: unix.AUDIT_ARCH_X86_64}
					e.args[index] = arg
					if got := execute(t, program, e) == allow; got != holds(arg, value) {
						t.Errorf("argument %d: %#x %s %#x is %v", index, arg, op, value, got)
					}
					e.arch, e.number = unix.AUDIT_ARCH_I386, number(t, x86, "personality")
					if got := execute(t, program, e) == allow; got != holds(arg&0xffffffff, value&0xffffffff) {
						t.Errorf("x86, argument %d: %#x %s %#x is %v", index, arg, op, value, got)
					}
				}
			}
		}
	}
}

func TestMaskedEqual(t *testing.T) {
	for _, test := range []struct {
		mask, value, arg uint64
		want             bool
	}{
		{0x7e020000, 0, 0x11, true},
		{0x7e020000, 0, 0x10000000, false},
		{1 << 40, 1 << 40, 1<<40 | 7, true},
		{1 << 40, 1 << 40, 7, false},
		{1 << 40, 0, ^uint64(1 << 40), true},
		{0, 0, 99, true},
		{0xf, 0xff, 0xf, true}, // bits outside the mask don't count
	} {
		profile := conditional(specs.LinuxSeccompArg{Value: test.mask, ValueTwo: test.value, Op: specs.OpMaskedEqual})
		e := event{number: number(t, x8664, "personality"), arch: unix.AUDIT_ARCH_X86_64, args: [6]uint64{test.arg}}
		if got := execute(t, mustCompile(t, profile, "amd64"), e) == allow; got != test.want {
			t.Errorf("%#x & %#x == %#x is %v", test.arg, test.mask, test.value, got)
		}
	}
}

func conditional(args ...specs.LinuxSeccompArg) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"personality"}, Action: specs.ActAllow, Args: args}},
	}
}

func TestSeveralConditions(t *testing.T) {
	equal := func(index uint, value uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Value: value, Op: specs.OpEqualTo}
	}
	both := mustCompile(t, conditional(equal(0, 1), equal(1, 2)), "amd64")
	either := mustCompile(t, conditional(equal(0, 1), equal(0, 2)), "amd64")
	for _, test := range []struct {
		args         [6]uint64
		both, either bool
	}{
		{[6]uint64{1, 2}, true, true}, {[6]uint64{1, 3}, false, true}, {[6]uint64{2, 2}, false, true}, {[6]uint64{3, 2}, false, false},
	} {
		e := event{number: number(t, x8664, "personality"), arch: unix.AUDIT_ARCH_X86_64, args: test.args}
		if got := execute(t, both, e) == allow; got != test.both {
			t.Errorf("%v: conditions on two arguments: %v", test.args, got)
		}
		if got := execute(t, either, e) == allow; got != test.either {
			t.Errorf("%v: two conditions on one argument: %v", test.args, got)
		}
	}
}

func TestArchitectures(t *testing.T) {
	profile := &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86, specs.ArchX32, specs.ArchARM, specs.ArchS390X},
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"ioctl", "no_such_call"}, Action: specs.ActErrno}},
	}
	native := *profile
	native.Architectures = nil
	denied := fail | outcome(unix.EPERM)
	for _, test := range []struct {
		machine string
		profile *specs.LinuxSeccomp
		number  uint32
		arch    uint32
		want    outcome
	}{
		{"amd64", profile, 16, unix.AUDIT_ARCH_X86_64, denied},
		{"amd64", profile, 54, unix.AUDIT_ARCH_X86_64, allow},
		{"amd64", profile, 54, unix.AUDIT_ARCH_I386, denied},
		{"amd64", profile, 514 | x32Bit, unix.AUDIT_ARCH_X86_64, denied},
		{"amd64", profile, 16 | x32Bit, unix.AUDIT_ARCH_X86_64, allow},
		{"amd64", profile, 29, unix.AUDIT_ARCH_AARCH64, killThread},
		{"amd64", &native, 16, unix.AUDIT_ARCH_X86_64, denied},
		{"amd64", &native, 1, unix.AUDIT_ARCH_I386, killThread},
		{"amd64", &native, 1 | x32Bit, unix.AUDIT_ARCH_X86_64, killThread},
		{"amd64", &native, ^uint32(0), unix.AUDIT_ARCH_X86_64, allow},
		{"arm64", profile, 29, unix.AUDIT_ARCH_AARCH64, denied},
		{"arm64", profile, 54, unix.AUDIT_ARCH_ARM, denied},
		{"arm64", &native, 54, unix.AUDIT_ARCH_ARM, killThread},
	} {
		got := execute(t, mustCompile(t, test.profile, test.machine), event{number: test.number, arch: test.arch})
		if got != test.want {
			t.Errorf("%s: %#x on %#x: %#x, want %#x", test.machine, test.number, test.arch, uint32(got), uint32(test.want))
		}
	}
}

func TestMultiplexedCalls(t *testing.T) {
	profile := func(fallback, action specs.LinuxSeccompAction, args ...specs.LinuxSeccompArg) []unix.SockFilter {
		return mustCompile(t, &specs.LinuxSeccomp{
			DefaultAction: fallback, Architectures: []specs.Arch{specs.ArchX86},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"socket", "shmget"}, Action: action, Args: args}},
		}, "amd64")
	}
	family := specs.LinuxSeccompArg{Index: 0, Value: unix.AF_VSOCK, Op: specs.OpEqualTo}
	for name, test := range map[string]struct {
		program []unix.SockFilter
		want    outcome
	}{
		"allowed":                  {profile(specs.ActKillProcess, specs.ActAllow), allow},
		"denied":                   {profile(specs.ActAllow, specs.ActKillProcess), killProcess},
		"allowed, with conditions": {profile(specs.ActKillProcess, specs.ActAllow, family), killProcess},
		"denied, with conditions":  {profile(specs.ActAllow, specs.ActKillProcess, family), killProcess},
	} {
		for _, e := range []event{
			{number: socketcall, args: [6]uint64{1}},
			{number: ipc, args: [6]uint64{23}},
			{number: ipc, args: [6]uint64{1<<16 | 23}},
		} {
			e.arch = unix.AUDIT_ARCH_I386
			if got := execute(t, test.program, e); got != test.want {
				t.Errorf("%s: %+v: %#x, want %#x", name, e, uint32(got), uint32(test.want))
			}
		}
	}
}

func TestNewerCalls(t *testing.T) {
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"statx"}, Action: specs.ActAllow}}}
	for fallback, want := range map[specs.LinuxSeccompAction]outcome{
		specs.ActErrno: fail | outcome(unix.ENOSYS), specs.ActKillProcess: fail | outcome(unix.ENOSYS), specs.ActLog: logged,
	} {
		profile.DefaultAction = fallback
		program := mustCompile(t, profile, "amd64")
		statx := number(t, x8664, "statx")
		if got := execute(t, program, event{number: statx + 1, arch: unix.AUDIT_ARCH_X86_64}); got != want {
			t.Errorf("%s: %#x, want %#x", fallback, uint32(got), uint32(want))
		}
	}
}

func TestActions(t *testing.T) {
	seven := uint(7)
	for _, test := range []struct {
		action specs.LinuxSeccompAction
		errno  *uint
		want   uint32
	}{
		{specs.ActKill, nil, unix.SECCOMP_RET_KILL_THREAD},
		{specs.ActKillThread, nil, unix.SECCOMP_RET_KILL_THREAD},
		{specs.ActKillProcess, nil, unix.SECCOMP_RET_KILL_PROCESS},
		{specs.ActTrap, nil, unix.SECCOMP_RET_TRAP},
		{specs.ActErrno, nil, unix.SECCOMP_RET_ERRNO | 1},
		{specs.ActErrno, &seven, unix.SECCOMP_RET_ERRNO | 7},
		{specs.ActTrace, nil, unix.SECCOMP_RET_TRACE | 1},
		{specs.ActTrace, &seven, unix.SECCOMP_RET_TRACE | 7},
		{specs.ActLog, nil, unix.SECCOMP_RET_LOG},
		{specs.ActAllow, nil, unix.SECCOMP_RET_ALLOW},
		{specs.ActNotify, nil, unix.SECCOMP_RET_USER_NOTIF},
	} {
		fallback := specs.ActAllow
		if test.action == fallback {
			fallback = specs.ActErrno
		}
		profile := &specs.LinuxSeccomp{
			DefaultAction: fallback, ListenerPath: "/x",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"getpid"}, Action: test.action, ErrnoRet: test.errno}},
		}
		program := mustCompile(t, profile, "amd64")
		if got := execute(t, program, event{number: unix.SYS_GETPID, arch: unix.AUDIT_ARCH_X86_64}); uint32(got) != test.want && unix.SYS_GETPID == 39 {
			t.Errorf("%s: %#x, want %#x", test.action, uint32(got), test.want)
		}
	}
}

func TestFlags(t *testing.T) {
	calls := []specs.LinuxSyscall{{Names: []string{"getpid"}, Action: specs.ActNotify}}
	filter, err := Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Syscalls: calls, ListenerPath: "/x",
		Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagWaitKillableRecv, "SECCOMP_FILTER_FLAG_TSYNC"},
	})
	want := uint(unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	if err != nil || !filter.Notify || filter.Flags != want {
		t.Errorf("%+v %v, want the flags %#x", filter, err, want)
	}
	filter, err = Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow})
	if err != nil || filter.Notify || filter.Flags != unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW {
		t.Errorf("%+v %v", filter, err)
	}
}

func TestCompileRefuses(t *testing.T) {
	seven, huge := uint(7), uint(1<<16)
	call := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		if s.Names == nil {
			s.Names = []string{"getpid"}
		}
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{s}}
	}
	for want, profile := range map[string]*specs.LinuxSeccomp{
		`field linux.seccomp.defaultAction: "" is not an action`:                                                                 {},
		`field linux.seccomp.defaultErrnoRet: action SCMP_ACT_ALLOW has no errno`:                                                {DefaultAction: specs.ActAllow, DefaultErrnoRet: &seven},
		`field linux.seccomp.defaultErrnoRet: 65536 is not from 0 to 65535`:                                                      {DefaultAction: specs.ActErrno, DefaultErrnoRet: &huge},
		`field linux.seccomp.architectures[0]: "SCMP_ARCH_Z80" is not an architecture`:                                           {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_Z80"}},
		`field linux.seccomp.flags[0]: "FAST" is not a flag`:                                                                     {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"FAST"}},
		`field linux.seccomp.listenerMetadata: it needs listenerPath`:                                                            {DefaultAction: specs.ActAllow, ListenerMetadata: "x"},
		`field linux.seccomp.listenerPath: SCMP_ACT_NOTIFY needs it`:                                                             call(specs.LinuxSyscall{Action: specs.ActNotify}),
		`field linux.seccomp.syscalls[0].action: "ALLOW" is not an action`:                                                       call(specs.LinuxSyscall{Action: "ALLOW"}),
		`field linux.seccomp.syscalls[0].errnoRet: action SCMP_ACT_TRAP has no errno`:                                            call(specs.LinuxSyscall{Action: specs.ActTrap, ErrnoRet: &seven}),
		`field linux.seccomp.syscalls[0].names: it must have at least one system call`:                                           call(specs.LinuxSyscall{Action: specs.ActTrap, Names: []string{}}),
		`field linux.seccomp.syscalls[0].args[0].index: 6 is not from 0 to 5`:                                                    call(specs.LinuxSyscall{Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}),
		`field linux.seccomp.syscalls[0].args[0].op: "==" is not an operator`:                                                    call(specs.LinuxSyscall{Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{{Op: "=="}}}),
		`field linux.seccomp.defaultAction: SCMP_ACT_NOTIFY can't be the default, as the listener could not even be handed over`: {DefaultAction: specs.ActNotify, ListenerPath: "/x"},
	} {
		_, err := compile(profile, "amd64")
		if err == nil || err.Error() != want || !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	if _, err := compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, "z80"); !errors.Is(err, errdefs.ErrUnimplemented) {
		t.Errorf("error %v for an unknown machine", err)
	}
}

func dockerDefault(t testing.TB) *specs.LinuxSeccomp {
	t.Helper()
	profile, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}}})
	if err != nil {
		t.Fatal(err)
	}
	return profile
}

func TestDockersDefaultProfile(t *testing.T) {
	profile := dockerDefault(t)
	profile.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	program := mustCompile(t, profile, "amd64")
	t.Logf("%d instructions", len(program))
	denied, absent := fail|outcome(unix.EPERM), fail|outcome(unix.ENOSYS)
	for _, test := range []struct {
		name string
		args [6]uint64
		want outcome
	}{
		{"read", [6]uint64{}, allow},
		{"mount", [6]uint64{}, denied},
		{"clone3", [6]uint64{}, absent},
		{"clone", [6]uint64{unix.CLONE_VM}, allow},
		{"clone", [6]uint64{unix.CLONE_NEWUSER}, denied},
		{"personality", [6]uint64{0xffffffff}, allow},
		{"personality", [6]uint64{1}, denied},
		{"socket", [6]uint64{unix.AF_INET}, allow},
		{"socket", [6]uint64{unix.AF_VSOCK}, denied},
	} {
		for _, abi := range []abi{x8664, x86, x32} {
			e := event{number: number(t, abi, test.name), arch: unix.AUDIT_ARCH_X86_64, args: test.args}
			if abi == x86 {
				e.arch = unix.AUDIT_ARCH_I386
			}
			if got := execute(t, program, e); got != test.want {
				t.Errorf("abi %d: %s(%v): %#x, want %#x", abi, test.name, test.args, uint32(got), uint32(test.want))
			}
		}
	}
}
