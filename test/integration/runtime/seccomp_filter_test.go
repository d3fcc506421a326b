package runtime_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// The filters that berth and runc load are read back from the kernel and compared in what they do with every system
// call, on each architecture of the machine.

// askOfFilter makes a ptrace request about the program that the process has loaded last.
func askOfFilter(t *testing.T, pid, request int, size uintptr, answer unsafe.Pointer) uintptr {
	t.Helper()
	runtime.LockOSThread() // the kernel takes ptrace calls only from the thread that has attached
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		t.Fatalf("cannot trace the container's process: %v", err)
	}
	defer func() { _ = unix.PtraceDetach(pid) }()
	if err := unix.PtraceInterrupt(pid); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		t.Fatal(err)
	}
	n, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), size, uintptr(answer), 0, 0)
	if errno == unix.EACCES || errno == unix.EIO {
		t.Skipf("the kernel doesn't show filters: %v", errno)
	}
	if errno != 0 {
		t.Fatalf("cannot read the filter: %v", errno)
	}
	return n
}

// flagsOf returns what the kernel shows of the flags of a process's filter.
func flagsOf(t *testing.T, pid int) uint64 {
	t.Helper()
	metadata := struct{ filter, flags uint64 }{}
	askOfFilter(t, pid, unix.PTRACE_SECCOMP_GET_METADATA, unsafe.Sizeof(metadata), unsafe.Pointer(&metadata))
	return metadata.flags
}

func filterOf(t *testing.T, pid int) []bpf.Instruction {
	t.Helper()
	raw := make([]unix.SockFilter, unix.BPF_MAXINSNS)
	n := askOfFilter(t, pid, unix.PTRACE_SECCOMP_GET_FILTER, 0, unsafe.Pointer(&raw[0]))
	program := make([]bpf.Instruction, n)
	for i := range program {
		program[i] = bpf.RawInstruction{Op: raw[i].Code, Jt: raw[i].Jt, Jf: raw[i].Jf, K: raw[i].K}.Disassemble()
	}
	return program
}

// loaded returns a machine with the filter that binary makes of the profile.
func loaded(t *testing.T, binary string, profile *specs.LinuxSeccomp) (*bpf.VM, int) {
	t.Helper()
	t.Setenv("BERTH_TEST_RUNTIME", binary)
	c := newContainer(t, "sleep", "1000")
	c.Spec.Linux.Seccomp = profile
	c.start()
	var state struct{ Pid int }
	if err := json.Unmarshal([]byte(c.must("state", c.ID)), &state); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, "the program to run", func() bool { return readFile(t, fmt.Sprintf("/proc/%d/comm", state.Pid)) == "sleep" })
	program := filterOf(t, state.Pid)
	c.must("delete", "--force", c.ID)
	machine, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return machine, len(program)
}

// verdict is what a filter returns for a system call. The machine takes data for network packets, in their byte order.
func verdict(t *testing.T, machine *bpf.VM, arch, number uint32, args [6]uint64) uint32 {
	t.Helper()
	data := binary.BigEndian.AppendUint32(nil, number)
	data = binary.BigEndian.AppendUint32(data, arch)
	data = append(data, make([]byte, 8)...)
	for _, arg := range args {
		data = binary.BigEndian.AppendUint32(data, uint32(arg))
		data = binary.BigEndian.AppendUint32(data, uint32(arg>>32))
	}
	result, err := machine.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(result)
}

// lastKnown is the highest number that Debian's libseccomp has a name for. What a profile says of calls above is
// nothing to it.
const lastKnown = 450

func compareFilters(t *testing.T, profile *specs.LinuxSeccomp, random *rand.Rand) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("compares the architectures of amd64")
	}
	ours, size := loaded(t, testenv.Binary(t, "berth-runtime"), profile)
	theirs, theirSize := loaded(t, "runc", profile)
	t.Logf("%d instructions, runc has %d", size, theirSize)
	values := []uint64{0, 1, 2, 8, 40, 0x20000, 0x7e020000, 0xffffffff, 1 << 32, 1<<32 | 8, ^uint64(0)}
	for _, entry := range profile.Syscalls {
		for _, arg := range entry.Args {
			values = append(values, arg.Value, arg.Value-1, arg.Value+1, arg.ValueTwo)
		}
	}
	const (
		x32               = 0x40000000
		uretprobe, uprobe = 335, 336 // of x86_64 alone
	)
	for _, arch := range []struct{ audit, first, last uint32 }{
		{unix.AUDIT_ARCH_X86_64, 0, lastKnown},
		{unix.AUDIT_ARCH_I386, 0, lastKnown},
		{unix.AUDIT_ARCH_X86_64, x32, x32 + lastKnown},
		{unix.AUDIT_ARCH_X86_64, x32 + 512, x32 + 547},
		{unix.AUDIT_ARCH_X86_64, 1000, 1010},
		{unix.AUDIT_ARCH_AARCH64, 0, 10},
	} {
		for number := arch.first; number <= arch.last; number++ {
			if arch.audit == unix.AUDIT_ARCH_X86_64 && (number == uretprobe || number == uprobe) {
				continue // newer than their numbers look
			}
			for range 40 {
				var args [6]uint64
				for i := range args {
					args[i] = values[random.IntN(len(values))]
				}
				got, want := verdict(t, ours, arch.audit, number, args), verdict(t, theirs, arch.audit, number, args)
				if got != want {
					t.Fatalf("architecture %#x, call %#x%x: %#x, runc's filter says %#x", arch.audit, number, args, got, want)
				}
			}
		}
	}
}

func TestFilterEqualsRuncsForDockersProfile(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Peer(t, "runc")
	profile := dockerProfile(t)
	compareFilters(t, profile, rand.New(rand.NewPCG(1, 2)))
}

// rare are calls that neither runtime makes on its way to the container's program, nor does sleep.
var rare = []string{
	"acct", "add_key", "adjtimex", "bpf", "chroot", "clock_adjtime", "clock_settime", "delete_module", "fanotify_init",
	"finit_module", "fsopen", "get_mempolicy", "init_module", "ioperm", "iopl", "io_uring_setup", "kcmp", "kexec_load", "keyctl",
	"lookup_dcookie", "mbind", "migrate_pages", "mknod", "modify_ldt", "move_pages", "msgsnd", "name_to_handle_at", "open_by_handle_at",
	"perf_event_open", "personality", "pivot_root", "process_madvise", "process_vm_readv", "ptrace", "quotactl", "reboot",
	"request_key", "sethostname", "setns", "settimeofday", "splice", "swapoff", "swapon", "syslog", "tee", "umount2", "unshare",
	"userfaultfd", "ustat", "vhangup", "vmsplice", "chmod", "fallocate", "flock", "inotify_init1", "link", "memfd_create",
}

// randomProfile puts random rules for rare calls before a base on which everything works: all is allowed, or what
// Docker allows but the rare ones.
func randomProfile(t *testing.T, random *rand.Rand) *specs.LinuxSeccomp {
	t.Helper()
	base := dockerProfile(t)
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: base.Architectures}
	if random.IntN(2) == 0 {
		profile.DefaultAction = specs.ActErrno
		for _, entry := range base.Syscalls {
			if entry.Action == specs.ActAllow {
				names := slices.DeleteFunc(slices.Clone(entry.Names), func(name string) bool { return slices.Contains(rare, name) })
				if len(names) > 0 {
					profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: names, Action: specs.ActAllow})
				}
			}
		}
	}
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActTrace, specs.ActLog}
	ops := []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual,
	}
	for _, name := range rare {
		entry := specs.LinuxSyscall{Names: []string{name}, Action: actions[random.IntN(len(actions))]}
		if entry.Action == specs.ActErrno && random.IntN(2) == 0 {
			errno := uint(random.IntN(130))
			entry.ErrnoRet = &errno
		}
		for index := range uint(6) {
			if random.IntN(5) == 0 {
				arg := specs.LinuxSeccompArg{Index: index, Op: ops[random.IntN(len(ops))], Value: random.Uint64() >> random.IntN(64)}
				arg.ValueTwo = arg.Value & random.Uint64()
				entry.Args = append(entry.Args, arg)
			}
		}
		profile.Syscalls = append(profile.Syscalls, entry)
	}
	return profile
}

func TestFilterEqualsRuncsForRandomProfiles(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Peer(t, "runc")
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			compareFilters(t, randomProfile(t, random), random)
		})
	}
}
