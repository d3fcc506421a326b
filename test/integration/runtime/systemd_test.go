package runtime_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// manager is a real systemd: that of the host, or else one of the test's own. That is a user's manager in a cgroup below
// which it may do everything, and is shown to the runtime in the place of the system's, in a mount namespace.
type manager struct {
	t      *testing.T
	dir    string // in the place of /run/systemd, or "" for the host's manager
	cgroup string // its own, on cgroup v2
}

func startManager(t *testing.T) *manager {
	t.Helper()
	testenv.NeedRoot(t)
	if hostHasSystemd() {
		return &manager{t: t, cgroup: "/sys/fs/cgroup"}
	}
	if !onV2(t) {
		t.Skip("needs cgroup v2, or a host with systemd: on v1 a user's systemd has no controllers")
	}
	const program = "/lib/systemd/systemd"
	if _, err := os.Stat(program); err != nil {
		t.Skip("needs Debian's systemd")
	}
	dir := testenv.ShortDir(t)
	m := &manager{t: t, dir: filepath.Join(dir, "systemd"), cgroup: "/sys/fs/cgroup/berth-test-" + filepath.Base(dir)}
	for _, path := range []string{"/run/systemd", filepath.Join(m.dir, "system"), m.cgroup} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	// Its own socket is dir/systemd/private, as its runtime directory is dir.
	command := m.inside(exec.Command("sh", "-c", `echo 0 > "$0/cgroup.procs" && XDG_RUNTIME_DIR="$1" exec "$2" --user --log-target=console`, m.cgroup, dir, program))
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.Signal(34 + 14)) // SIGRTMIN+14: exit at once
		ended := make(chan struct{})
		go func() { _ = command.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = command.Process.Kill()
			<-ended
		}
		_ = log.Close()
		if out, err := exec.Command("find", m.cgroup, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").CombinedOutput(); err != nil {
			t.Errorf("cannot remove %s: %v: %s", m.cgroup, err, out)
		}
	})
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(m.dir, "private")); err == nil {
			return m
		}
		if time.Now().After(deadline) {
			content, _ := os.ReadFile(log.Name())
			t.Fatalf("systemd doesn't start within a minute: %s", content)
		}
	}
}

func hostHasSystemd() bool {
	_, err := os.Stat("/run/systemd/private")
	return err == nil
}

// inside returns the command with the manager in the system's place.
func (m *manager) inside(command *exec.Cmd) *exec.Cmd {
	if m.dir == "" {
		return command
	}
	args := append([]string{"-m", "sh", "-c", `mount --bind "$0" /run/systemd && exec "$@"`, m.dir}, command.Args...)
	return exec.Command("unshare", args...)
}

// systemctl asks the manager, and returns its answer.
func (m *manager) systemctl(args ...string) string {
	m.t.Helper()
	command := exec.Command("systemctl", args...)
	if m.dir != "" {
		command = exec.Command("systemctl", append([]string{"--user"}, args...)...)
		command.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+filepath.Dir(m.dir))
	}
	r := testenv.Execute(m.t, command)
	if r.Status != 0 {
		m.t.Fatalf("%v: %+v", command.Args, r)
	}
	return strings.TrimSpace(r.Stdout)
}

// scope is a container whose cgroup the manager makes.
type scope struct {
	*container
	m         *manager
	unit, dir string // dir is that of cgroup v2, or of v1's memory controller
}

func newScope(t *testing.T, m *manager) *scope {
	t.Helper()
	c := newContainer(t, "sleep", "1000")
	s := &scope{container: c, m: m, unit: "bt-" + c.ID + ".scope"}
	c.Flags = []string{"--systemd-cgroup"}
	c.Spec.Linux.CgroupsPath = "berth-test.slice:bt:" + c.ID
	s.dir = filepath.Join(m.cgroup, "berth.slice/berth-test.slice", s.unit)
	if !onV2(t) {
		s.dir = filepath.Join(m.cgroup, "memory/berth.slice/berth-test.slice", s.unit)
	}
	t.Cleanup(func() { s.verb("delete", "--force", c.ID) })
	return s
}

// verb is the runtime's, by way of the manager.
func (s *scope) verb(args ...string) testenv.Outcome {
	return testenv.Execute(s.t, s.m.inside(s.command(args...)))
}

func (s *scope) must(args ...string) string {
	s.t.Helper()
	r := s.verb(args...)
	if r.Status != 0 {
		s.t.Fatalf("%v: %+v", args, r)
	}
	return r.Stdout
}

func (s *scope) start() {
	s.t.Helper()
	s.writeConfig()
	create := s.m.inside(s.command("create", "--bundle", s.Bundle, s.ID)) // its output would stay open in the container
	if err := create.Run(); err != nil {
		s.t.Fatalf("create: %v: %s", err, s.verb("create", "--bundle", s.Bundle, s.ID).Stderr)
	}
	s.must("start", s.ID)
}

// has checks properties of the unit.
func (s *scope) has(want map[string]string) {
	s.t.Helper()
	for property, want := range want {
		if got := s.m.systemctl("show", s.unit, "--property", property, "--value"); got != want {
			s.t.Errorf("%s is %q, want %q", property, got, want)
		}
	}
}

// files checks the cgroup's files on v2.
func (s *scope) files(want map[string]string) {
	s.t.Helper()
	if !onV2(s.t) {
		return
	}
	for file, want := range want {
		if got := readFile(s.t, filepath.Join(s.dir, file)); got != want {
			s.t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
}

func (s *scope) isGone() {
	s.t.Helper()
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		s.t.Errorf("%s is left: %v", s.dir, err)
	}
	s.has(map[string]string{"ActiveState": "inactive"})
}

// TestSystemdScope: the unit says what the cgroup has, from create to delete, and also after systemd is reloaded.
func TestSystemdScope(t *testing.T) {
	m := startManager(t)
	s := newScope(t, m)
	resources := s.Spec.Linux.Resources
	resources.Memory = &specs.LinuxMemory{Limit: pointer(int64(64 << 20))}
	resources.CPU = &specs.LinuxCPU{Quota: pointer(int64(50000)), Period: pointer(uint64(100000)), Shares: pointer(uint64(512)), Cpus: "0"}
	resources.Pids = &specs.LinuxPids{Limit: pointer(int64(50))}
	s.start()
	if pids := strings.Fields(readFile(t, filepath.Join(s.dir, "cgroup.procs"))); len(pids) != 1 {
		t.Errorf("processes %v in the scope", pids)
	}
	s.has(map[string]string{
		"ActiveState": "active", "Delegate": "yes", "CPUQuotaPerSecUSec": "500ms", "TasksMax": "50", "Slice": "berth-test.slice",
		"CollectMode": "inactive-or-failed", "Description": "container " + s.ID,
	})
	limits := map[string]string{"cpu.max": "30000 100000", "cpu.weight": "59", "pids.max": "77", "memory.max": "134217728", "cpuset.cpus": "0"}
	if onV2(t) {
		s.has(map[string]string{"MemoryMax": "67108864", "CPUWeight": "59", "AllowedCPUs": "0"})
	} else {
		s.has(map[string]string{"MemoryLimit": "67108864", "CPUShares": "512", "DevicePolicy": "strict"})
	}
	s.must("update", "--memory", "134217728", "--pids-limit", "77", "--cpu-quota", "30000", s.ID)
	s.has(map[string]string{"TasksMax": "77", "CPUQuotaPerSecUSec": "300ms"})
	s.files(limits)
	m.systemctl("daemon-reload")
	s.files(limits)
	if !onV2(t) {
		wantEqual(t, readFile(t, filepath.Join(s.dir, "memory.limit_in_bytes")), "134217728")
	}
	s.must("update", "--cpu-period", "200000", s.ID) // what it leaves out counts too
	s.has(map[string]string{"CPUQuotaPerSecUSec": "150ms", "CPUQuotaPeriodUSec": "200ms"})
	s.must("pause", s.ID)
	s.must("resume", s.ID)
	if pids := s.must("exec", s.ID, "cat", "/proc/self/cgroup"); onV2(t) && pids != "0::/\n" {
		t.Errorf("exec is in %q", pids)
	}
	s.must("delete", "--force", s.ID)
	s.isGone()
}

// TestSystemdWritesFirst: the files have what was asked for, not what systemd, which counts in hundredths of a processor, makes of it.
func TestSystemdWritesFirst(t *testing.T) {
	s := newScope(t, startManager(t))
	s.start()
	for quota := 33301; quota <= 33310; quota++ {
		s.must("update", "--cpu-quota", itoa(quota), "--cpu-period", "70000", s.ID)
		s.has(map[string]string{"CPUQuotaPerSecUSec": "480ms", "CPUQuotaPeriodUSec": "70ms"})
		s.files(map[string]string{"cpu.max": itoa(quota) + " 70000"})
		if !onV2(t) {
			wantEqual(t, readFile(t, filepath.Join(strings.Replace(s.dir, "/memory/", "/cpu/", 1), "cpu.cfs_quota_us")), itoa(quota))
		}
	}
}

// TestSystemdUnitOfAnother: a cgroup that systemd has not made does not stand for the unit that has its name.
func TestSystemdUnitOfAnother(t *testing.T) {
	m := startManager(t)
	s := newScope(t, m)
	s.Spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: pointer(int64(50))}
	s.start()
	other := newScope(t, m)
	other.Flags = nil
	other.Spec.Linux.CgroupsPath = testenv.CgroupParent + "/system.slice/" + s.unit
	other.start()
	other.must("update", "--pids-limit", "77", other.ID)
	other.must("pause", other.ID)
	other.must("resume", other.ID)
	wantEqual(t, other.must("exec", other.ID, "echo", "executed"), "executed\n")
	other.must("delete", "--force", other.ID)
	s.has(map[string]string{"ActiveState": "active", "TasksMax": "50"})
	s.files(map[string]string{"pids.max": "50"})
	s.wantStatus("running")
}

// TestSystemdKeepsDevices: the device rules stay those of the configuration, whatever systemd does with its own.
func TestSystemdKeepsDevices(t *testing.T) {
	m := startManager(t)
	s := newScope(t, m)
	s.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11, FileMode: pointer(os.FileMode(0o666))}}
	kmsg := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: pointer(int64(1)), Minor: pointer(int64(11)), Access: "w"}
	s.Spec.Linux.Resources.Devices = append(s.Spec.Linux.Resources.Devices, kmsg)
	capabilities := s.Spec.Process.Capabilities
	for _, set := range []*[]string{&capabilities.Bounding, &capabilities.Effective, &capabilities.Permitted} {
		*set = append(*set, "CAP_SYSLOG")
	}
	s.start()
	check := func(when, want string) {
		t.Helper()
		script := "(: < /dev/kmsg) 2>/dev/null && echo read; (: > /dev/kmsg) 2>/dev/null && echo written; (: > /dev/null) && echo null"
		if got := s.must("exec", s.ID, "sh", "-c", script); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	check("at first", "written\nnull\n")
	m.systemctl("daemon-reload")
	check("after a reload", "written\nnull\n")
	m.systemctl("set-property", "--runtime", s.unit, "TasksMax=40")
	check("after a change of the unit", "written\nnull\n")
	update := s.m.inside(s.command("update", "-r", "-", s.ID))
	update.Stdin = strings.NewReader(`{"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]}`)
	if r := testenv.Execute(t, update); r.Status != 0 {
		t.Fatalf("%+v", r)
	}
	check("after an update", "read\nnull\n")
	m.systemctl("daemon-reload")
	check("after an update and a reload", "read\nnull\n")
}

// TestSystemdRun: nothing is left of a container that ends by itself, and the next one may have its name.
func TestSystemdRun(t *testing.T) {
	s := newScope(t, startManager(t))
	s.shell("exit 7").writeConfig()
	for range 5 {
		if r := s.verb("run", "--bundle", s.Bundle, s.ID); r.Status != 7 {
			t.Fatalf("%+v", r)
		}
		s.isGone()
	}
}

// TestSystemdProperties: annotations and linux.resources.unified get to the unit too.
func TestSystemdProperties(t *testing.T) {
	s := newScope(t, startManager(t))
	s.Spec.Annotations = map[string]string{"org.systemd.property.TimeoutStopSec": "7", "org.systemd.property.Description": "'my own'"}
	want := map[string]string{"TimeoutStopUSec": "7s", "Description": "my own"}
	if onV2(t) {
		s.Spec.Linux.Resources.Unified = map[string]string{"memory.high": "50331648", "cpu.max": "20000 50000", "pids.max": "max", "memory.oom.group": "1"}
		want["MemoryHigh"], want["CPUQuotaPerSecUSec"], want["TasksMax"] = "50331648", "400ms", "infinity"
	}
	s.start()
	s.has(want)
	s.files(map[string]string{"memory.high": "50331648", "cpu.max": "20000 50000", "memory.oom.group": "1"})
	s.must("delete", "--force", s.ID)
	s.isGone()
	s.Spec.Annotations = map[string]string{"org.systemd.property.NoSuchThing": "1"}
	s.writeConfig()
	if r := s.verb("run", "--bundle", s.Bundle, s.ID); r.Status == 0 || !strings.Contains(r.Stderr, "NoSuchThing") {
		t.Errorf("%+v", r)
	}
	s.isGone()
}

func TestSystemdRefuses(t *testing.T) {
	for path, want := range map[string]string{
		"/not/for/systemd":      `field linux.cgroupsPath: "/not/for/systemd" is not of the form slice:prefix:name, which systemd wants`,
		"a--b.slice:x:y":        `field linux.cgroupsPath: "a--b.slice" is not the name of a slice`,
		"system.slice:x:../../": "has characters that no unit's name can have",
		"system.slice:x:y":      "cannot connect to systemd: no such file or directory",
	} {
		if strings.Contains(want, "no such file") && hostHasSystemd() {
			continue
		}
		c := newContainer(t, "true")
		c.Flags = []string{"--systemd-cgroup"}
		c.Spec.Linux.CgroupsPath = path
		c.refused(want)
	}
}
