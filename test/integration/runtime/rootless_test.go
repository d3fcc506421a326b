package runtime_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// asUser makes a command that of an ordinary user.
func asUser(command *exec.Cmd, dir string) *exec.Cmd {
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	command.Env = []string{"PATH=/usr/bin:/bin", "XDG_RUNTIME_DIR=" + dir}
	command.Dir = dir
	return command
}

// rootless is a container's bundle that belongs to an ordinary user, and a copy of the runtime that the user may execute.
type rootless struct {
	*container
	binary, config string
	spec           specs.Spec
}

func newRootless(t *testing.T) *rootless {
	t.Helper()
	c := &rootless{container: newContainer(t)}
	if output, err := exec.Command("chown", "-R", "1000:1000", c.Rootfs, filepath.Dir(c.Rootfs), c.Bundle).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	c.binary = filepath.Join(c.Bundle, "runtime") // the checkout may be root's alone
	content, err := os.ReadFile(testenv.Runtime(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.binary, content, 0o755); err != nil {
		t.Fatal(err)
	}
	if r := c.as("spec", "--rootless"); r.Status != 0 {
		t.Fatalf("spec --rootless: %+v", r)
	}
	c.config = filepath.Join(c.Bundle, "config.json")
	if err := json.Unmarshal([]byte(readFile(t, c.config)), &c.spec); err != nil {
		t.Fatal(err)
	}
	c.spec.Root.Path = c.Rootfs
	c.spec.Process.Terminal = false
	return c
}

// as executes the runtime as the user.
func (c *rootless) as(args ...string) testenv.Outcome {
	c.t.Helper()
	return testenv.Execute(c.t, asUser(exec.Command(c.binary, args...), c.Bundle))
}

func TestRootless(t *testing.T) {
	c := newRootless(t)
	c.spec.Process.Args = []string{"sh", "-c", "id -u; tr -s ' ' < /proc/self/uid_map; echo x > /dev/null && echo devices; touch /new 2>/dev/null || echo read-only"}
	writeJSON(t, c.config, c.spec)
	r := c.as("run", c.ID)
	if r.Status != 0 {
		t.Fatalf("run: %+v", r)
	}
	wantEqual(t, r.Stdout, "0\n 0 1000 1\ndevices\nread-only\n")
	if left, _ := os.ReadDir(filepath.Join(c.Bundle, "berth-runtime")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	if r := c.as("list"); r.Status != 0 || strings.Contains(r.Stdout, c.ID) {
		t.Errorf("list: %+v", r)
	}
}

// TestRootlessExec: only in the container's user namespace has an ordinary user the right to the others.
func TestRootlessExec(t *testing.T) {
	c := newRootless(t)
	c.spec.Process.Args = []string{"sleep", "1000"}
	writeJSON(t, c.config, c.spec)
	create := asUser(exec.Command(c.binary, "create", c.ID), c.Bundle) // its output would stay open in the container
	if err := create.Run(); err != nil {
		t.Fatalf("create: %v: %+v", err, c.as("run", c.ID))
	}
	t.Cleanup(func() { c.as("delete", "--force", c.ID) })
	for _, args := range [][]string{
		{"start", c.ID},
		{"exec", c.ID, "sh", "-c", "ps -o comm | grep -c sleep; id -u; hostname; readlink /proc/1/ns/pid > /dev/null && exit 7"},
	} {
		r := c.as(args...)
		if args[0] == "exec" && (r.Status != 7 || r.Stdout != "1\n0\nrunc\n") {
			t.Errorf("%v: %+v", args, r)
		} else if args[0] == "start" && r.Status != 0 {
			t.Fatalf("%+v", r)
		}
	}
	file := filepath.Join(c.Bundle, "pid")
	detached := asUser(exec.Command(c.binary, "exec", "--detach", "--pid-file", file, c.ID, "sleep", "100"), c.Bundle)
	if err := detached.Run(); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, readFile(t, "/proc/"+readFile(t, file)+"/comm"), "sleep")
	wantEqual(t, c.as("exec", c.ID, "/no/such").Status, 255)
	wantEqual(t, c.as("exec", "--tty", c.ID, "sh", "-c", "echo controlled > /dev/tty").Stdout, "controlled\n")
	wantEqual(t, c.as("kill", "--all", c.ID, "KILL").Status, 0) // for want of a cgroup, of the process that takes the others along
	testenv.WaitFor(t, "the container to stop", func() bool { return strings.Contains(c.as("state", c.ID).Stdout, `"stopped"`) })
}

// TestRootlessLimits: a limit that nobody would keep is an error, and without one there is no cgroup.
func TestRootlessLimits(t *testing.T) {
	c := newRootless(t)
	c.spec.Process.Args = []string{"true"}
	c.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: pointer(int64(5))}}
	writeJSON(t, c.config, c.spec)
	if r := c.as("run", c.ID); r.Status == 0 || !strings.Contains(r.Stderr, "cannot create the cgroup: mkdir") {
		t.Errorf("with a limit: %+v", r)
	}
	c.spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}
	c.spec.Process.Args = []string{"sleep", "1000"}
	writeJSON(t, c.config, c.spec)
	if err := asUser(exec.Command(c.binary, "run", "--detach", c.ID), c.Bundle).Run(); err != nil {
		t.Fatal(err)
	}
	for _, verb := range [][]string{{"update", "--pids-limit", "5", c.ID}, {"pause", c.ID}} {
		if r := c.as(verb...); r.Status == 0 || !strings.Contains(r.Stderr, "the container has no cgroup") {
			t.Errorf("%v: %+v", verb, r)
		}
	}
	for _, verb := range [][]string{{"kill", c.ID, "KILL"}, {"delete", "--force", c.ID}} {
		if r := c.as(verb...); r.Status != 0 {
			t.Errorf("%v: %+v", verb, r)
		}
	}
}

// TestRootlessDelegated: an ordinary user who was given a part of the tree of cgroups has all that goes with it.
func TestRootlessDelegated(t *testing.T) {
	if !onV2(t) {
		t.Skip("cgroups of v1 are never delegated")
	}
	c := newRootless(t)
	dir := "/sys/fs/cgroup/berth-test-" + c.ID
	files := "{.," + strings.ReplaceAll(readFile(t, "/sys/kernel/cgroup/delegate"), "\n", ",") + "}"
	output, err := exec.Command("bash", "-c", "mkdir -p "+dir+"/own && chown 1000 "+dir+"/"+files+" "+dir+"/own/"+files+" 2>/dev/null; true").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	t.Cleanup(func() {
		for _, path := range []string{dir + "/own", dir} {
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}
	})
	inside := func(args ...string) *exec.Cmd {
		script := `echo $$ > ` + dir + `/own/cgroup.procs && exec setpriv --reuid 1000 --regid 1000 --clear-groups "$@"`
		command := exec.Command("sh", append([]string{"-c", script, "sh", c.binary}, args...)...)
		command.Env, command.Dir = []string{"PATH=/usr/bin:/bin", "XDG_RUNTIME_DIR=" + c.Bundle}, c.Bundle
		return command
	}
	must := func(args ...string) string {
		t.Helper()
		r := testenv.Execute(t, inside(args...))
		if r.Status != 0 {
			t.Fatalf("%v: %+v", args, r)
		}
		return r.Stdout
	}
	check := func(file, want string) {
		t.Helper()
		wantEqual(t, readFile(t, filepath.Join(dir, c.ID, file)), want)
	}
	c.spec.Process.Args = []string{"sleep", "1000"}
	c.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: pointer(int64(7))}, Memory: &specs.LinuxMemory{Limit: pointer(int64(64 << 20))}}
	writeJSON(t, c.config, c.spec)
	if err := inside("run", "--detach", c.ID).Run(); err != nil {
		t.Fatalf("%v: %+v", err, testenv.Execute(t, inside("run", c.ID)))
	}
	check("pids.max", "7")
	check("memory.max", "67108864")
	must("update", "--pids-limit", "9", c.ID)
	check("pids.max", "9")
	must("pause", c.ID)
	check("cgroup.freeze", "1")
	must("resume", c.ID)
	wantEqual(t, must("exec", c.ID, "cat", "/proc/self/cgroup"), must("exec", c.ID, "cat", "/proc/1/cgroup"))
	must("delete", "--force", c.ID)
	if _, err := os.Stat(filepath.Join(dir, c.ID)); !os.IsNotExist(err) {
		t.Errorf("the cgroup is left: %v", err)
	}
}

// TestRootlessRanges: more users than one come from newuidmap and newgidmap, by what /etc/subuid and /etc/subgid allow.
// In a mount namespace of its own the test has its own files there, and a name for the user.
func TestRootlessRanges(t *testing.T) {
	for _, helper := range []string{"newuidmap", "newgidmap", "unshare", "setpriv"} {
		testenv.Peer(t, helper)
	}
	c := newRootless(t)
	c.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 500000, Size: 1000}}
	c.spec.Linux.GIDMappings = c.spec.Linux.UIDMappings
	c.spec.Process.User = specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}}
	c.spec.Process.Args = []string{"sh", "-c", "id -u; id -G; tr -s ' ' < /proc/self/uid_map; cut -d ' ' -f -3 /dev/shm/hooks"}
	c.spec.Hooks = &specs.Hooks{CreateContainer: whereHook("create", "dev/shm/hooks; chmod 666 dev/shm/hooks"), StartContainer: whereHook("start", "/dev/shm/hooks")}
	writeJSON(t, c.config, c.spec)
	file := func(name, content string) string {
		path := filepath.Join(c.Bundle, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	passwd := file("passwd", "bertha:x:1000:1000::/:/bin/sh\n"+readFile(t, "/etc/passwd"))
	for allowed, want := range map[string]string{"bertha:500000:65536\n": "5\n6 7\n 0 1000 1\n 1 500000 1000\ncreate 0 " + c.Rootfs + "\nstart 5 /\n", "bertha:700000:65536\n": ""} {
		ranges := file("ranges", allowed)
		script := "mount --bind " + passwd + " /etc/passwd && mount --bind " + ranges + " /etc/subuid && mount --bind " + ranges + " /etc/subgid && " +
			"exec setpriv --reuid 1000 --regid 1000 --clear-groups " + c.binary + " run " + c.ID
		command := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
		command.Dir, command.Env = c.Bundle, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR=" + c.Bundle}
		r := testenv.Execute(t, command)
		switch {
		case want != "" && (r.Status != 0 || r.Stdout != want):
			t.Errorf("ranges %q: %+v, want %q", allowed, r, want)
		case want == "" && (r.Status == 0 || !strings.Contains(r.Stderr, "cannot apply linux.gidMappings: newgidmap: ")):
			t.Errorf("ranges that are not the user's: %+v", r)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(c.Bundle, "berth-runtime")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// whereHook returns a hook that adds to the file whose process it is, in which namespace, and what it is told the first
// process's pid is.
func whereHook(name, file string) []specs.Hook {
	script := fmt.Sprintf(`echo "%s $(id -u) $(pwd) $(readlink /proc/self/ns/pid) $(sed 's/.*"pid":\([0-9]*\).*/\1/')" >> %s`, name, file)
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}
}

// TestRootlessHooks: an ordinary user's hooks come into the container's namespaces too, whose pid namespace only the
// container's root may enter.
func TestRootlessHooks(t *testing.T) {
	c := newRootless(t)
	c.spec.Process.Args = []string{"sh", "-c", `cat /tmp/hooks; readlink /proc/self/ns/pid`}
	c.spec.Root.Readonly = false
	c.spec.Hooks = &specs.Hooks{CreateContainer: whereHook("create", c.Rootfs+"/tmp/hooks"), StartContainer: whereHook("start", "/tmp/hooks")}
	writeJSON(t, c.config, c.spec)
	r := c.as("run", c.ID)
	lines := strings.Split(r.Stdout, "\n")
	if r.Status != 0 || len(lines) != 4 {
		t.Fatalf("run: %+v", r)
	}
	wantEqual(t, r.Stdout, fmt.Sprintf("create 0 %[1]s %[2]s 1\nstart 0 / %[2]s 1\n%[2]s\n", c.Rootfs, lines[2]))
	failing := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo reason >&2; exit 3"}}}
	slow := []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "100"}, Timeout: pointer(1)}}
	missing := []specs.Hook{{Path: "/no/such"}}
	for want, hooks := range map[string]specs.Hooks{
		`hook createContainer[0] "/bin/sh": exit status 3: reason`:                       {CreateContainer: failing},
		`hook createContainer[0] "/bin/sleep": it took longer than its timeout of 1 s`:   {CreateContainer: slow},
		`hook createContainer[0] "/no/such": cannot execute "/no/such": no such file or`: {CreateContainer: missing},
		`hook startContainer[0] "/bin/sh": exit status 3: reason`:                        {StartContainer: failing},
		`hook startContainer[0] "/bin/sleep": it took longer than its timeout of 1 s`:    {StartContainer: slow},
		`hook startContainer[0] "/no/such": `:                                            {StartContainer: missing},
	} {
		c.spec.Hooks = &hooks
		writeJSON(t, c.config, c.spec)
		if r := c.as("run", c.ID); r.Status == 0 || r.Stdout != "" || !strings.Contains(r.Stderr, want) {
			t.Errorf("%+v, want %q", r, want)
		}
		if left, _ := os.ReadDir(filepath.Join(c.Bundle, "berth-runtime")); len(left) > 0 {
			t.Errorf("%s: %v is left", want, left)
		}
	}
}

// TestAsAUsersRoot: the root of a user namespace enters a container's pid namespace and can't come back. Hooks of the host
// are not there all the same. And where nobody may set groups a container that has some goes without.
func TestAsAUsersRoot(t *testing.T) {
	testenv.Peer(t, "unshare")
	c := newRootless(t)
	c.spec.Process.Args, c.spec.Process.User.AdditionalGids = []string{"id", "-G"}, []uint32{7}
	c.spec.Linux.UIDMappings[0].HostID, c.spec.Linux.GIDMappings[0].HostID = 0, 0
	file := filepath.Join(c.Bundle, "hooks")
	inside := []specs.Hook{{Path: "/bin/true"}}
	c.spec.Hooks = &specs.Hooks{
		CreateContainer: slices.Repeat(inside, 3), StartContainer: slices.Repeat(inside, 3),
		Poststart: slices.Repeat(whereHook("start", file), 3), Poststop: slices.Repeat(whereHook("stop", file), 3),
	}
	writeJSON(t, c.config, c.spec)
	r := testenv.Execute(t, asUser(exec.Command("unshare", "--user", "--map-root-user", "--mount", c.binary, "run", c.ID), c.Bundle))
	if r != (testenv.Outcome{Stdout: "0\n"}) {
		t.Fatalf("%+v", r)
	}
	host := namespaceOf(t, "self", "pid")
	if seen := readFile(t, file); strings.Count(seen, " "+host+" ") != 6 {
		t.Errorf("%s, want six times %s", seen, host)
	}
}

// TestRootlessJoinedHooks: beside the processes of another container hooks of the host would be a way out of that.
func TestRootlessJoinedHooks(t *testing.T) {
	first := newRootless(t)
	first.spec.Process.Args = []string{"sleep", "1000"}
	writeJSON(t, first.config, first.spec)
	if err := asUser(exec.Command(first.binary, "run", "--detach", first.ID), first.Bundle).Run(); err != nil {
		t.Fatalf("%v: %+v", err, first.as("run", first.ID))
	}
	t.Cleanup(func() { first.as("delete", "--force", first.ID) })
	pid := fmt.Sprint(stateIn(first.as("state", first.ID).Stdout).Pid)
	c := newRootless(t)
	c.spec.Process.Args = []string{"cat", "/tmp/hooks"}
	c.spec.Root.Readonly = false
	for i, n := range c.spec.Linux.Namespaces {
		if n.Type == specs.UserNamespace || n.Type == specs.PIDNamespace {
			c.spec.Linux.Namespaces[i].Path = "/proc/" + pid + "/ns/" + string(n.Type)
		}
	}
	c.spec.Hooks = &specs.Hooks{CreateRuntime: whereHook("runtime", "/dev/null"), StartContainer: whereHook("start", "/tmp/hooks")}
	writeJSON(t, c.config, c.spec)
	r := c.as("run", c.ID)
	if want := "start 0 / " + namespaceOf(t, pid, "pid") + " "; r.Status != 0 || !strings.HasPrefix(r.Stdout, want) {
		t.Errorf("%+v, want %q", r, want)
	}
	c.spec.Process.Args, c.spec.Hooks.StartContainer = []string{"sleep", "1000"}, nil
	writeJSON(t, c.config, c.spec)
	if err := asUser(exec.Command(c.binary, "run", "--detach", c.ID), c.Bundle).Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.as("delete", "--force", c.ID) })
	wantEqual(t, c.as("exec", c.ID, "sh", "-c", "ps -o comm | grep -c sleep; readlink /proc/self/ns/pid").Stdout, "2\n"+namespaceOf(t, pid, "pid")+"\n")
	c.as("delete", "--force", c.ID)
	c.spec.Process.Args, c.spec.Hooks.CreateContainer = []string{"true"}, whereHook("create", c.Rootfs+"/tmp/hooks")
	writeJSON(t, c.config, c.spec)
	if r := c.as("run", c.ID); r.Status == 0 || !strings.Contains(r.Stderr, "cannot run hooks.createContainer for an ordinary user: other containers of the user namespace") {
		t.Errorf("%+v", r)
	}
}
