package runtime_test

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// dockerProfile is Docker's default for a container with the capabilities of the example configuration.
func dockerProfile(t testing.TB) *specs.LinuxSeccomp {
	t.Helper()
	profile, err := moby.GetDefaultProfile(testenv.ExampleSpec(t))
	if err != nil {
		t.Fatal(err)
	}
	profile.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	return profile
}

// filtered is a container whose calls of names get the action.
func filtered(t *testing.T, entry specs.LinuxSyscall, script string) *container {
	t.Helper()
	c := newContainer(t).shell(script)
	c.Spec.Root.Readonly = false
	c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{entry}}
	return c
}

func TestSeccompActions(t *testing.T) {
	errno := func(number uint) *uint { return &number }
	names := []string{"mkdir", "mkdirat"}
	for name, test := range map[string]struct {
		entry  specs.LinuxSyscall
		status int
		stderr string
	}{
		"errno, default":  {specs.LinuxSyscall{Names: names, Action: specs.ActErrno}, 1, "Operation not permitted"},
		"errno":           {specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: errno(uint(unix.ENOSPC))}, 1, "No space left on device"},
		"kill":            {specs.LinuxSyscall{Names: names, Action: specs.ActKill}, 128 + int(unix.SIGSYS), "Bad system call"},
		"kill thread":     {specs.LinuxSyscall{Names: names, Action: specs.ActKillThread}, 128 + int(unix.SIGSYS), "Bad system call"},
		"kill process":    {specs.LinuxSyscall{Names: names, Action: specs.ActKillProcess}, 128 + int(unix.SIGSYS), "Bad system call"},
		"trap":            {specs.LinuxSyscall{Names: names, Action: specs.ActTrap}, 128 + int(unix.SIGSYS), "Bad system call"},
		"trace, untraced": {specs.LinuxSyscall{Names: names, Action: specs.ActTrace}, 1, "Function not implemented"},
		"log":             {specs.LinuxSyscall{Names: names, Action: specs.ActLog}, 0, ""},
		"another call":    {specs.LinuxSyscall{Names: []string{"acct"}, Action: specs.ActKillProcess}, 0, ""},
		"an unknown call": {specs.LinuxSyscall{Names: []string{"mkdir_of_the_future"}, Action: specs.ActKillProcess}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := filtered(t, test.entry, "mkdir /tmp/new; exit $?").run()
			if r.Status != test.status || !strings.Contains(r.Stderr, test.stderr) {
				t.Errorf("%+v, want status %d and %q", r, test.status, test.stderr)
			}
		})
	}
}

// TestSeccompArguments denies some modes by a comparison of chmod's second argument, or where there is no such call of
// fchmodat's third.
func TestSeccompArguments(t *testing.T) {
	const script = `cd /tmp; for mode in 600 700 701; do touch $mode; chmod $mode $mode 2>/dev/null && echo 0 || echo 1; done`
	call, mode := "chmod", uint(1)
	if runtime.GOARCH == "arm64" {
		call, mode = "fchmodat", 2
	}
	for op, want := range map[specs.LinuxSeccompOperator]string{
		specs.OpEqualTo: "0 1 0", specs.OpNotEqual: "1 0 1", specs.OpLessThan: "1 0 0", specs.OpGreaterThan: "0 0 1",
		specs.OpLessEqual: "1 1 0", specs.OpGreaterEqual: "0 1 1",
	} {
		entry := specs.LinuxSyscall{Names: []string{call}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: mode, Value: 0o700, Op: op}}}
		if got := strings.Join(strings.Fields(filtered(t, entry, script).output()), " "); got != want {
			t.Errorf("%s: %s, want %s", op, got, want)
		}
	}
	for name, test := range map[string]struct {
		args []specs.LinuxSeccompArg
		want string
	}{
		"masked":   {[]specs.LinuxSeccompArg{{Index: mode, Value: 0o007, ValueTwo: 0o001, Op: specs.OpMaskedEqual}}, "0 0 1"},
		"together": {[]specs.LinuxSeccompArg{{Index: mode, Value: 0o600, Op: specs.OpGreaterThan}, {Index: 0, Value: 0, Op: specs.OpEqualTo}}, "0 0 0"},
		"either":   {[]specs.LinuxSeccompArg{{Index: mode, Value: 0o600, Op: specs.OpEqualTo}, {Index: mode, Value: 0o701, Op: specs.OpEqualTo}}, "1 0 1"},
	} {
		entry := specs.LinuxSyscall{Names: []string{call}, Action: specs.ActErrno, Args: test.args}
		if got := strings.Join(strings.Fields(filtered(t, entry, script).output()), " "); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// TestSeccompFlags: of the flags the kernel shows this one.
func TestSeccompFlags(t *testing.T) {
	for _, flags := range [][]specs.LinuxSeccompFlag{nil, {}, {specs.LinuxSeccompFlagSpecAllow}, {specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow}} {
		c := filtered(t, specs.LinuxSyscall{Names: []string{"acct"}, Action: specs.ActErrno}, "exec sleep 1000")
		c.Spec.Linux.Seccomp.Flags = flags
		c.start()
		logs := flagsOf(t, c.state().Pid)&unix.SECCOMP_FILTER_FLAG_LOG != 0
		if wanted := slices.Contains(flags, specs.LinuxSeccompFlagLog); logs != wanted {
			t.Errorf("flags %q: the filter logs: %v", flags, logs)
		}
		c.must("delete", "--force", c.ID)
	}
}

// TestSeccompWithoutNoNewPrivileges loads the filter while the process still may, and it stays in place for a user.
func TestSeccompWithoutNoNewPrivileges(t *testing.T) {
	for _, noNewPrivileges := range []bool{true, false} {
		c := filtered(t, specs.LinuxSyscall{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}, "mkdir /tmp/new 2>/dev/null || id -u; grep NoNewPrivs /proc/self/status")
		c.Spec.Process.NoNewPrivileges = noNewPrivileges
		c.Spec.Process.User = specs.User{UID: 1000, GID: 1000}
		want := "1000\nNoNewPrivs:\t0\n"
		if noNewPrivileges {
			want = "1000\nNoNewPrivs:\t1\n"
		}
		if out := c.output(); out != want {
			t.Errorf("noNewPrivileges %v: %q", noNewPrivileges, out)
		}
	}
}

// TestSeccompComesLastWithNoNewPrivileges: a profile that is made for no_new_privs need allow nothing of what the runtime
// does, but to execute the program.
func TestSeccompComesLastWithNoNewPrivileges(t *testing.T) {
	entry := specs.LinuxSyscall{Names: []string{"capset", "close_range", "openat2"}, Action: specs.ActErrno}
	for _, action := range []specs.LinuxSeccompAction{specs.ActErrno, specs.ActKillProcess} {
		entry.Action = action
		c := filtered(t, entry, "exit 7")
		c.Spec.Process.NoNewPrivileges = true
		if r := c.run(); r.Status != 7 {
			t.Errorf("%s: %+v", action, r)
		}
	}
}

func TestSeccompInExec(t *testing.T) {
	c := filtered(t, specs.LinuxSyscall{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}, "exec sleep 1000")
	c.start()
	if r := c.verb("exec", c.ID, "mkdir", "/tmp/new"); r.Status != 1 || !strings.Contains(r.Stderr, "Operation not permitted") {
		t.Errorf("%+v", r)
	}
	c.must("exec", c.ID, "touch", "/tmp/new")
}

func TestDockersProfile(t *testing.T) {
	c := newContainer(t).shell("mount -t tmpfs x /tmp 2>&1; unshare -U true 2>&1; ls / | grep -c tmp; exec cat /proc/self/comm")
	c.Spec.Linux.Seccomp = dockerProfile(t)
	out := c.output()
	for _, want := range []string{"mount: permission denied", "unshare(0x10000000): Operation not permitted\n", "\n1\ncat\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("output %q, want %q", out, want)
		}
	}
}

func TestSeccompRefuses(t *testing.T) {
	for want, change := range map[string]func(*specs.LinuxSeccomp){
		`field linux.seccomp.architectures[0]: "SCMP_ARCH_PDP11" is not an architecture`: func(s *specs.LinuxSeccomp) { s.Architectures = []specs.Arch{"SCMP_ARCH_PDP11"} },
		`field linux.seccomp.syscalls[0].args[0].index: 6 is not from 0 to 5`: func(s *specs.LinuxSeccomp) {
			s.Syscalls[0].Args = []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}
		},
		`field linux.seccomp.flags[0]: "SECCOMP_FILTER_FLAG_NONE" is not a flag`:              func(s *specs.LinuxSeccomp) { s.Flags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_NONE"} },
		`field linux.seccomp.syscalls[0].errnoRet: action SCMP_ACT_KILL_PROCESS has no errno`: func(s *specs.LinuxSeccomp) { one := uint(1); s.Syscalls[0].ErrnoRet = &one },
	} {
		c := filtered(t, specs.LinuxSyscall{Names: []string{"acct"}, Action: specs.ActKillProcess}, "true")
		change(c.Spec.Linux.Seccomp)
		c.refused(want)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

func TestSeccompDefaultErrno(t *testing.T) {
	c := newContainer(t).shell("unshare -U true")
	c.Spec.Linux.Seccomp = dockerProfile(t)
	number := uint(unix.EXDEV)
	c.Spec.Linux.Seccomp.DefaultErrnoRet = &number
	if r := c.run(); r.Status == 0 || !strings.Contains(strings.ToLower(r.Stderr), unix.EXDEV.Error()) {
		t.Errorf("%+v", r)
	}
}
