package runtime_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// session is an ordinary user with a systemd manager, as everybody has who has logged in.
type session struct {
	*container
	uid, cgroup, binary string
	// within is what makes a command one of the manager's own cgroup, or of one apart from that.
	within []string
}

func newSession(t *testing.T, name string, within ...string) *session {
	t.Helper()
	testenv.NeedRoot(t)
	account, err := user.Lookup(name)
	if err == nil {
		_, err = os.Stat("/run/user/" + account.Uid + "/systemd/private")
	}
	if err != nil {
		t.Skipf("needs the user %s with a systemd manager, as make test-vm PART=systemd has: %v", name, err)
	}
	if !onV2(t) {
		t.Skip("needs cgroup v2: on v1 a user's systemd has no controllers")
	}
	s := &session{container: newContainer(t), uid: account.Uid, within: within}
	s.cgroup = fmt.Sprintf("/sys/fs/cgroup/user.slice/user-%s.slice/user@%s.service", s.uid, s.uid)
	s.binary = filepath.Join(s.Bundle, "runtime")
	content, err := os.ReadFile(testenv.Runtime(t))
	if err == nil {
		err = os.WriteFile(s.binary, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("chown", "-R", s.uid+":"+s.uid, s.Rootfs, filepath.Dir(s.Rootfs), s.Bundle).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	t.Cleanup(func() { testenv.Execute(t, s.runtime("delete", "--force", s.ID)) })
	return s
}

// as is a command of the user's.
func (s *session) as(args ...string) *exec.Cmd {
	command := exec.Command("setpriv", append([]string{"--reuid", s.uid, "--regid", s.uid, "--clear-groups"}, args...)...)
	command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR=/run/user/" + s.uid, "HOME=" + s.Bundle}
	command.Dir = s.Bundle
	return command
}

func (s *session) runtime(args ...string) *exec.Cmd {
	return s.as(append(append(s.within, s.binary, "--systemd-cgroup", "--rootless", "true"), args...)...)
}

func (s *session) must(args ...string) string {
	s.t.Helper()
	r := testenv.Execute(s.t, s.runtime(args...))
	if r.Status != 0 {
		s.t.Fatalf("%v: %+v", args, r)
	}
	return r.Stdout
}

func (s *session) show(unit, property string) string {
	s.t.Helper()
	r := testenv.Execute(s.t, s.as("systemctl", "--user", "show", unit, "--property", property, "--value"))
	if r.Status != 0 {
		s.t.Fatalf("%+v", r)
	}
	return strings.TrimSpace(r.Stdout)
}

// configure writes a configuration as spec --rootless has it.
func (s *session) configure(change func(spec *specs.Spec)) {
	s.t.Helper()
	_ = os.Remove(filepath.Join(s.Bundle, "config.json"))
	s.must("spec", "--rootless")
	spec := &specs.Spec{}
	if err := json.Unmarshal([]byte(readFile(s.t, filepath.Join(s.Bundle, "config.json"))), spec); err != nil {
		s.t.Fatal(err)
	}
	spec.Root.Path, spec.Process.Terminal = s.Rootfs, false
	change(spec)
	writeJSON(s.t, filepath.Join(s.Bundle, "config.json"), spec)
}

// TestSystemdOfUser: an ordinary user's containers are units of the user's own manager, with limits. A user who has logged
// in is not in the manager's cgroup, and may move no process there.
func TestSystemdOfUser(t *testing.T) {
	ranges := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1500, Size: 1}, {ContainerID: 1, HostID: 165536, Size: 1000}}
	for name, test := range map[string]struct {
		user     string
		within   []string
		mappings []specs.LinuxIDMapping
	}{
		"logged in":               {"bertha", nil, ranges},
		"below the manager":       {"bertha", []string{"systemd-run", "--user", "--scope", "--quiet"}, ranges},
		"without ranges":          {"bertrand", nil, nil},
		"without ranges below it": {"bertrand", []string{"systemd-run", "--user", "--scope", "--quiet"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t, test.user, test.within...)
			s.configure(func(spec *specs.Spec) {
				spec.Process.Args = []string{"sleep", "1000"}
				spec.Hooks = &specs.Hooks{ // which fail unless they are in the container's cgroup
					StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `grep -x 0::/ /proc/self/cgroup`}, Timeout: pointer(60)}},
				}
				if test.mappings != nil {
					spec.Linux.UIDMappings, spec.Linux.GIDMappings = subordinate(t, test.mappings)
					spec.Process.User = specs.User{UID: 5, GID: 5}
				}
				spec.Linux.CgroupsPath = "berth-test.slice:bt:" + s.ID
				spec.Linux.Resources = &specs.LinuxResources{
					Memory: &specs.LinuxMemory{Limit: pointer(int64(64 << 20))}, Pids: &specs.LinuxPids{Limit: pointer(int64(50))},
				}
			})
			s.lives("bt-"+s.ID+".scope", "berth.slice/berth-test.slice")
		})
	}
}

// subordinate gives mappings the range that /etc/subuid has for the first user.
func subordinate(t *testing.T, mappings []specs.LinuxIDMapping) (uids, gids []specs.LinuxIDMapping) {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/etc/subuid")) {
		var start uint32
		if _, err := fmt.Sscanf(line, "bertha:%d:", &start); err == nil {
			mappings[1].HostID = start
			return mappings, mappings
		}
	}
	t.Fatal("bertha has no range in /etc/subuid")
	return nil, nil
}

// lives takes a container through its life.
func (s *session) lives(unit, slice string) {
	s.t.Helper()
	dir := filepath.Join(s.cgroup, slice, unit)
	create := s.runtime("create", s.ID) // its output would stay open in the container
	if err := create.Run(); err != nil {
		s.t.Fatalf("create: %v: %+v", err, testenv.Execute(s.t, s.runtime("run", s.ID)))
	}
	s.must("start", s.ID)
	for property, want := range map[string]string{"ActiveState": "active", "MemoryMax": "67108864", "TasksMax": "50", "Delegate": "yes"} {
		if got := s.show(unit, property); got != want {
			s.t.Errorf("%s is %q, want %q", property, got, want)
		}
	}
	wantEqual(s.t, readFile(s.t, filepath.Join(dir, "memory.max")), "67108864")
	wantEqual(s.t, len(strings.Fields(readFile(s.t, filepath.Join(dir, "cgroup.procs")))), 1)
	wantEqual(s.t, s.must("exec", s.ID, "cat", "/proc/self/cgroup"), "0::/\n")
	s.must("update", "--memory", "134217728", s.ID)
	wantEqual(s.t, s.show(unit, "MemoryMax"), "134217728")
	wantEqual(s.t, readFile(s.t, filepath.Join(dir, "memory.max")), "134217728")
	s.must("pause", s.ID)
	s.must("resume", s.ID)
	if pids := strings.Fields(s.must("ps", "--format", "json", s.ID)); len(pids) != 1 {
		s.t.Errorf("ps: %q", pids)
	}
	s.must("kill", s.ID, "KILL")
	testenv.WaitFor(s.t, "the container's end", func() bool { return strings.Contains(s.must("state", s.ID), `"stopped"`) })
	s.must("delete", s.ID)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		s.t.Errorf("%s is left: %v", dir, err)
	}
	wantEqual(s.t, s.show(unit, "ActiveState"), "inactive")
}

// TestSystemdOfUserByDefault: without a path the container is in the user's slice.
func TestSystemdOfUserByDefault(t *testing.T) {
	s := newSession(t, "bertrand")
	s.configure(func(spec *specs.Spec) { spec.Process.Args = []string{"sh", "-c", "cat /proc/self/cgroup; exit 7"} })
	r := testenv.Execute(t, s.runtime("run", s.ID))
	if r.Status != 7 || r.Stdout != "0::/\n" {
		t.Errorf("%+v", r)
	}
	wantEqual(t, s.show("berth-"+s.ID+".scope", "ActiveState"), "inactive")
}
