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

// manager is a real systemd of the test's own: a user's manager in a cgroup below which it may do everything. It is
// shown to the runtime in the place of the system's, in a mount namespace.
type manager struct {
	t      *testing.T
	dir    string // in the place of /run/systemd
	cgroup string
}

func startManager(t *testing.T) *manager {
	t.Helper()
	testenv.NeedRoot(t)
	if !onV2(t) {
		t.Skip("needs cgroup v2: on v1 a user's systemd has no controllers")
	}
	const program = "/lib/systemd/systemd"
	if _, err := os.Stat(program); err != nil {
		t.Skip("needs Debian's systemd")
	}
	if _, err := os.Stat("/run/systemd/private"); err == nil {
		t.Skip("the host has a systemd of its own")
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
			t.Skipf("systemd doesn't start here: %s", content)
		}
	}
}

// inside returns the command with the manager in the system's place.
func (m *manager) inside(command *exec.Cmd) *exec.Cmd {
	args := append([]string{"-m", "sh", "-c", `mount --bind "$0" /run/systemd && exec "$@"`, m.dir}, command.Args...)
	return exec.Command("unshare", args...)
}

// show returns a property of a unit.
func (m *manager) show(unit, property string) string {
	m.t.Helper()
	command := exec.Command("systemctl", "--user", "show", unit, "--property", property, "--value")
	command.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+filepath.Dir(m.dir))
	r := execute(m.t, command)
	if r.Status != 0 {
		m.t.Fatalf("%+v", r)
	}
	return strings.TrimSpace(r.Stdout)
}

func TestSystemdScope(t *testing.T) {
	m := startManager(t)
	c := newContainer(t, "sleep", "1000")
	c.Flags = []string{"--systemd-cgroup"}
	c.Spec.Linux.CgroupsPath = "berth-test.slice:bt:" + c.ID
	c.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: pointer(int64(64 << 20))}
	c.Spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: pointer(int64(50000)), Period: pointer(uint64(100000)), Shares: pointer(uint64(512))}
	c.writeConfig()
	verb := func(args ...string) outcome { return execute(t, m.inside(c.command(args...))) }
	must := func(args ...string) {
		t.Helper()
		if r := verb(args...); r.Status != 0 {
			t.Fatalf("%v: %+v", args, r)
		}
	}
	unit := "bt-" + c.ID + ".scope"
	dir := filepath.Join(m.cgroup, "berth.slice/berth-test.slice", unit)
	t.Cleanup(func() { verb("delete", "--force", c.ID) })
	script := m.inside(c.command("create", "--bundle", c.Bundle, c.ID))
	if err := script.Run(); err != nil {
		t.Fatalf("create: %v: %s", err, verb("create", "--bundle", c.Bundle, c.ID).Stderr)
	}
	must("start", c.ID)
	if pids := strings.Fields(readFile(t, filepath.Join(dir, "cgroup.procs"))); len(pids) != 1 {
		t.Errorf("processes %v in the scope", pids)
	}
	check := func(want map[string]string) {
		t.Helper()
		for property, want := range want {
			if got := m.show(unit, property); got != want {
				t.Errorf("%s is %q, want %q", property, got, want)
			}
		}
	}
	check(map[string]string{"ActiveState": "active", "Delegate": "yes", "MemoryMax": "67108864", "CPUQuotaPerSecUSec": "500ms", "CPUWeight": "59", "Slice": "berth-test.slice"})
	must("update", "--memory", "134217728", "--pids-limit", "77", c.ID)
	check(map[string]string{"MemoryMax": "134217728", "TasksMax": "77"})
	if got := readFile(t, filepath.Join(dir, "memory.max")); got != "134217728" {
		t.Errorf("memory.max is %s", got)
	}
	must("pause", c.ID)
	must("resume", c.ID)
	must("exec", c.ID, "true")
	must("delete", "--force", c.ID)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
	if state := m.show(unit, "ActiveState"); state != "inactive" {
		t.Errorf("the unit is %s", state)
	}
}

func TestSystemdRefuses(t *testing.T) {
	if _, err := os.Stat("/run/systemd/private"); err == nil {
		t.Skip("the host has a systemd of its own")
	}
	for path, want := range map[string]string{
		"/not/for/systemd":      `field linux.cgroupsPath: "/not/for/systemd" is not of the form slice:prefix:name, which systemd wants`,
		"a--b.slice:x:y":        `field linux.cgroupsPath: "a--b.slice" is not the name of a slice`,
		"system.slice:x:y":      "cannot connect to systemd: no such file or directory",
		"system.slice:x:../../": "has characters that no unit's name can have",
	} {
		c := newContainer(t, "true")
		c.Flags = []string{"--systemd-cgroup"}
		c.Spec.Linux.CgroupsPath = path
		c.refused(want)
	}
}
