package runtime_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// processTest is a change of a process with what a script sees of it.
type processTest struct {
	change       func(p *specs.Process)
	script, want string
}

func processTests() map[string]processTest {
	umask := uint32(0o077)
	score := 321
	return map[string]processTest{
		"environment":   {func(p *specs.Process) { p.Env = append(p.Env, "A=b c", "A2=") }, `echo "$A|$A2"`, "b c|"},
		"user":          {func(p *specs.Process) { p.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 6}} }, "id -u; id -g; id -G", "1000\n1001\n1001 5 6"},
		"umask":         {func(p *specs.Process) { p.User.Umask = &umask }, "umask", "0077"},
		"default umask": {func(p *specs.Process) {}, "umask", "0022"},
		"cwd":           {func(p *specs.Process) { p.Cwd = "/usr/bin" }, "pwd", "/usr/bin"},
		"home":          {func(p *specs.Process) { p.User.UID = 1000 }, "echo $HOME", "/home"},
		"given home":    {func(p *specs.Process) { p.Env = append(p.Env, "HOME=/x") }, "echo $HOME", "/x"},
		"no home":       {func(p *specs.Process) { p.User.UID = 4242 }, "echo $HOME", "/"},
		"limits": {func(p *specs.Process) {
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE"}}
		}, "ulimit -Sn; ulimit -Hn; ulimit -c", "100\n200\n0"},
		"oom score":     {func(p *specs.Process) { p.OOMScoreAdj = &score }, "cat /proc/self/oom_score_adj", "321"},
		"no new privs":  {func(p *specs.Process) { p.NoNewPrivileges = true }, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"},
		"new privs":     {func(p *specs.Process) { p.NoNewPrivileges = false }, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0"},
		"first process": {func(p *specs.Process) {}, "echo $$", "1"},
		"no blocked":    {func(p *specs.Process) {}, "grep SigBlk /proc/self/status", "SigBlk:\t0000000000000000"},
		"scheduler":     {func(p *specs.Process) { p.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7} }, "cut -d' ' -f19,41 /proc/self/stat", "7 3"},
		"I/O priority": {func(p *specs.Process) {
			p.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}, "ionice -p $$ | head -c 20", "best-effort: prio 6"},
		"relative to cwd": {func(p *specs.Process) { p.Cwd = "/bin"; p.Args[0] = "./sh" }, "echo here", "here"},
	}
}

func TestProcess(t *testing.T) {
	for name, test := range processTests() {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t).shell(test.script)
			test.change(c.Spec.Process)
			wantEqual(t, strings.TrimSpace(c.output()), test.want)
		})
	}
}

func TestPersonality(t *testing.T) {
	for domain, native := range map[specs.LinuxPersonalityDomain]bool{specs.PerLinux: true, specs.PerLinux32: false} {
		c := newContainer(t).shell("uname -m > /dev/shm/machine; exec sleep 1000")
		c.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: domain}
		c.start()
		out := c.must("exec", c.ID, "sh", "-c", "until [ -s /dev/shm/machine ]; do :; done; cat /dev/shm/machine; uname -m")
		first, second, _ := strings.Cut(out, "\n")
		if first+"\n" != second || (first == "x86_64" || first == "aarch64") != native {
			t.Errorf("%s: the first process sees %q, and that of exec %q", domain, first, second)
		}
	}
}

// nohup ignores SIGHUP, make a signal of the C library: neither is the container's affair.
func TestIgnoredSignalsEndWithTheRuntime(t *testing.T) {
	c := newContainer(t, "grep", "SigIgn", "/proc/self/status")
	c.writeConfig()
	runtime := c.command("run", "--bundle", c.Bundle, c.ID)
	ran := testenv.Execute(t, exec.Command("sh", append([]string{"-c", `trap "" HUP USR1; exec "$@"`, "sh"}, runtime.Args...)...))
	wantEqual(t, ran.Stdout, "SigIgn:\t0000000000000000\n")
}

func TestUserWithoutAccessToTheDirectory(t *testing.T) {
	c := newContainer(t).shell("pwd; id -u")
	c.Spec.Process.User.UID = 1000
	c.Spec.Process.Cwd = "/root"
	if err := os.Chmod(filepath.Join(c.Rootfs, "root"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, c.output(), "/root\n1000\n") // as runc does: entered before the user changes
}

func TestStartErrors(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"not found":      {[]string{"nothing-there"}, `exec: "nothing-there": executable file not found in $PATH`},
		"no such path":   {[]string{"/nothing/there"}, `exec: "/nothing/there": stat /nothing/there: no such file or directory`},
		"not executable": {[]string{"/etc/passwd"}, `exec: "/etc/passwd": permission denied`},
		"directory":      {[]string{"/etc"}, `exec: "/etc": is a directory: permission denied`},
		"device":         {[]string{"/dev/null"}, `exec: "/dev/null": permission denied`},
		"out of reach":   {[]string{"/locked/program"}, `exec: "/locked/program": stat /locked/program: permission denied`},
		"below a file":   {[]string{"/etc/passwd/x"}, `exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory`},
		"not a program":  {[]string{"/bin/nonsense"}, `exec: "/bin/nonsense": exec format error`},
		"no interpreter": {[]string{"/bin/script"}, `exec: "/bin/script": no such file or directory`},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, test.args...)
			c.Spec.Process.User = specs.User{UID: 1000, GID: 1000}
			if err := os.Mkdir(filepath.Join(c.Rootfs, "locked"), 0o700); err != nil {
				t.Fatal(err)
			}
			for file, content := range map[string]string{"nonsense": "nonsense", "script": "#!/nothing\n"} {
				if err := os.WriteFile(filepath.Join(c.Rootfs, "bin", file), []byte(content), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			c.refused(test.want)
		})
	}
}

// TestStartErrorOfACreatedContainer: what only execve finds out is what start says.
func TestStartErrorOfACreatedContainer(t *testing.T) {
	c := newContainer(t, "/bin/nonsense")
	if err := os.WriteFile(filepath.Join(c.Rootfs, "bin/nonsense"), []byte("nonsense"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.writeConfig()
	c.leave("create", "--bundle", c.Bundle, c.ID)
	c.wantFailure(`exec: "/bin/nonsense": exec format error`, "start", c.ID)
	testenv.WaitFor(t, "the process to end", func() bool { return c.state().Status == "stopped" })
	c.must("delete", c.ID)
	c.gone()
}

func TestConfigErrors(t *testing.T) {
	for name, test := range map[string]struct{ config, want string }{
		"no file":       {"", "config.json"},
		"no JSON":       {"{", "config.json"},
		"unknown field": {`{"ociVersion":"1.0.2","root":{"pathh":"x"}}`, "pathh"},
		"wrong type":    {`{"ociVersion":"1.0.2","process":{"args":"true"}}`, "process.args"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "true")
			if test.config != "" {
				if err := os.WriteFile(filepath.Join(c.Bundle, "config.json"), []byte(test.config), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			c.wantFailure(test.want, "run", "--bundle", c.Bundle, c.ID)
			c.gone()
		})
	}
	c := newContainer(t, "true")
	c.wantFailure("/does/not/exist", "run", "--bundle", "/does/not/exist", c.ID)
	c.Spec.Root.Path = "/does/not/exist"
	c.refused(`"/does/not/exist"`)
}

func TestRefusedFields(t *testing.T) {
	for want, change := range map[string]func(*specs.Spec){
		"linux.intelRdt":    func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"} },
		"RLIMIT_NONSENSE":   func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NONSENSE"}} },
		"rootfsPropagation": func(s *specs.Spec) { s.Linux.RootfsPropagation = "nonsense" },
		"personality":       func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "NONSENSE"} },
		"linux.devices":     func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "z"}} },
	} {
		c := newContainer(t, "true")
		change(c.Spec)
		c.refused(want)
	}
}

func TestMemoryPolicy(t *testing.T) {
	if _, err := os.Stat("/proc/self/numa_maps"); err != nil {
		t.Skip("the kernel has no NUMA")
	}
	static, relative := []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}, []specs.MemoryPolicyFlagType{specs.MpolFRelativeNodes}
	for want, policy := range map[string]specs.LinuxMemoryPolicy{
		"default":                 {Mode: specs.MpolDefault},
		"local":                   {Mode: specs.MpolLocal},
		"bind:0":                  {Mode: specs.MpolBind, Nodes: "0"},
		"bind=static:0":           {Mode: specs.MpolBind, Nodes: "0", Flags: static},
		"bind=relative:0":         {Mode: specs.MpolBind, Nodes: "0", Flags: relative},
		"interleave:0":            {Mode: specs.MpolInterleave, Nodes: "0"},
		"prefer:0":                {Mode: specs.MpolPreferred, Nodes: "0"},
		"prefer (many):0":         {Mode: specs.MpolPreferredMany, Nodes: "0"},
		"bind=static|balancing:0": {Mode: specs.MpolBind, Nodes: "0", Flags: append(static[:1:1], specs.MpolFNumaBalancing)},
	} {
		c := newContainer(t, "head", "-n1", "/proc/self/numa_maps")
		c.Spec.Linux.MemoryPolicy = &policy
		if r := c.run(); !strings.Contains(r.Stdout, " "+want+" ") {
			t.Errorf("%+v, want %q", r, want)
		}
		executed := sleeping(t, func(spec *specs.Spec) { spec.Linux.MemoryPolicy = &policy })
		if out := executed.must("exec", executed.ID, "head", "-n1", "/proc/self/numa_maps"); !strings.Contains(out, " "+want+" ") {
			t.Errorf("exec: %q, want %q", out, want)
		}
	}
	for want, policy := range map[string]specs.LinuxMemoryPolicy{
		"linux.memoryPolicy.nodes": {Mode: specs.MpolBind, Nodes: "x"},
		"linux.memoryPolicy.mode":  {Mode: "MPOL_NONE"},
		"linux.memoryPolicy":       {Mode: specs.MpolBind, Nodes: "900"},
	} {
		bad := newContainer(t, "true")
		bad.Spec.Linux.MemoryPolicy = &policy
		bad.refused(want)
	}
}
