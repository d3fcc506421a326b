package runtime_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestExec(t *testing.T) {
	c := sleeping(t, nil)
	id := c.ID
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"output", []string{id, "echo", "hello"}, "hello\n"},
		{"double dash", []string{id, "--", "echo", "-d"}, "-d\n"},
		{"home of root", []string{id, "sh", "-c", "echo $HOME"}, "/root\n"},
		{"home of a user", []string{"--user", "1000", id, "sh", "-c", "echo $HOME"}, "/home\n"},
		{"user", []string{"--user", "1000:2000", id, "sh", "-c", "id -u; id -g"}, "1000\n2000\n"},
		{"groups", []string{"-u", "1000:1000", "-g", "5", "--additional-gids", "6", id, "id", "-G"}, "1000 5 6\n"},
		{"working directory", []string{"--cwd", "/tmp", id, "pwd"}, "/tmp\n"},
		{"environment", []string{"--env", "A=1", "-e", "B=2", id, "sh", "-c", "echo $A$B"}, "12\n"},
		{"pid namespace", []string{id, "cat", "/proc/1/comm"}, "sleep\n"},
		{"hostname", []string{id, "hostname"}, "runc\n"},
		{"no new privileges", []string{"--no-new-privs", id, "grep", "NoNewPrivs", "/proc/self/status"}, "NoNewPrivs:\t1\n"},
		{"own session", []string{id, "sh", "-c", "read a b c d e f g < /proc/self/stat; [ $f = $a ] && echo yes"}, "yes\n"},
		{"no terminal", []string{id, "sh", "-c", "test -t 0 || echo none"}, "none\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantEqual(t, c.must(append([]string{"exec"}, test.args...)...), test.want)
		})
	}
}

func TestExecStatus(t *testing.T) {
	c := sleeping(t, nil)
	id := c.ID
	wantEqual(t, c.verb("exec", id, "sh", "-c", "exit 9").Status, 9)
	wantEqual(t, c.verb("exec", id, "sh", "-c", "kill -15 $$").Status, 128+15)
	for _, test := range []struct{ command, want string }{
		{"nothing-there", `exec: "nothing-there": executable file not found in $PATH`},
		{"/nothing/there", `exec: "/nothing/there": stat /nothing/there: no such file or directory`},
		{"/etc/passwd", `exec: "/etc/passwd": permission denied`},
		{"/etc", `exec: "/etc": is a directory: permission denied`},
	} {
		r := c.verb("exec", id, test.command)
		if r.Status == 0 || !strings.Contains(r.Stderr, test.want) {
			t.Errorf("%s: %+v", test.command, r)
		}
	}
	if r := c.verb("exec", "no-such-container", "true"); r.Status != 255 || !strings.Contains(r.Stderr, "does not exist") {
		t.Errorf("exec in nothing: %+v", r)
	}
	c.wantStatus("running")
}

func TestExecProcessFile(t *testing.T) {
	c := sleeping(t, nil)
	id := c.ID
	file := filepath.Join(c.Bundle, "process.json")
	writeJSON(t, file, specs.Process{
		Args: []string{"sh", "-c", "id -u; pwd; echo $X; grep CapEff /proc/self/status; umask"}, Cwd: "/tmp", Env: []string{"PATH=/bin", "X=y"},
		User:         specs.User{UID: 0, Umask: new(uint32)},
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN"}},
	})
	wantEqual(t, c.must("exec", "--process", file, id), "0\n/tmp\ny\nCapEff:\t0000000000000001\n0000\n")
	if err := os.WriteFile(file, []byte(`{"args":["true"],"cwd":"/","arguments":[]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := c.verb("exec", "--process", file, id); r.Status != 0 || !strings.Contains(r.Stderr, "field arguments: there is no such field, it is ignored") {
		t.Errorf("a process with an unknown field: %+v", r)
	}
}

func TestExecDetached(t *testing.T) {
	c := sleeping(t, nil)
	id := c.ID
	pidFile := filepath.Join(c.Bundle, "pid")
	c.leave("exec", "--detach", "--pid-file", pidFile, id, "sleep", "1001")
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	cmdline, err := os.ReadFile(filepath.Join("/proc", string(pid), "cmdline"))
	if err != nil || string(cmdline) != "sleep\x001001\x00" {
		t.Errorf("process %s is %q, %v", pid, cmdline, err)
	}
	wantContains(t, c.must("ps", id), "sleep 1001")
}

func TestExecCapabilities(t *testing.T) {
	c := sleeping(t, func(spec *specs.Spec) {
		spec.Process.Capabilities = &specs.LinuxCapabilities{}
		spec.Process.NoNewPrivileges = false
	})
	id := c.ID
	const show = "grep -E 'Cap(Eff|Bnd)' /proc/self/status"
	wantEqual(t, c.must("exec", id, "sh", "-c", show), "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n")
	wantEqual(t, c.must("exec", "--cap", "CAP_KILL", id, "sh", "-c", show), "CapEff:\t0000000000000020\nCapBnd:\t0000000000000020\n")
}

func TestExecIsInTheCgroup(t *testing.T) {
	c := sleeping(t, nil)
	id := c.ID
	init := c.must("exec", id, "cat", "/proc/1/cgroup")
	wantEqual(t, c.must("exec", id, "cat", "/proc/self/cgroup"), init)
}

func TestExecInACgroupBelow(t *testing.T) {
	c := sleeping(t, nil)
	flag, dir := "below", filepath.Join("/sys/fs/cgroup", c.Spec.Linux.CgroupsPath, "below")
	if !onV2(t) {
		flag, dir = "pids:below", filepath.Join("/sys/fs/cgroup/pids", c.Spec.Linux.CgroupsPath, "below")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	wantContains(t, c.must("exec", "--cgroup", flag, c.ID, "cat", "/proc/self/cgroup"), "/below\n")
	if r := c.verb("exec", "--cgroup", "nothing", c.ID, "true"); r.Status == 0 || !strings.Contains(r.Stderr, "--cgroup") {
		t.Errorf("a cgroup that is not there: %+v", r)
	}
}

func TestExecBeforeStart(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.writeConfig()
	id := c.ID
	c.leave("create", "--bundle", c.Bundle, id)
	wantEqual(t, c.must("exec", id, "echo", "early"), "early\n")
	c.must("start", id)
	c.wantStatus("running")
}

func writeJSON(t testing.TB, path string, value any) {
	t.Helper()
	content, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}
