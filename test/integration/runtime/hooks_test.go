package runtime_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hook returns one that adds a line to the log of the test: its name, its network namespace, the state's status.
func hook(log, name string) specs.Hook {
	script := fmt.Sprintf(`state=$(cat); set -- $(echo "$state" | sed 's/.*"status":"\([a-z]*\)".*/\1/'); echo "%s $(readlink /proc/self/ns/net) $1 $COLOUR" >> %s`, name, log)
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin", "COLOUR=blue"}}
}

func TestHooks(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	shared := t.TempDir()
	log := filepath.Join(shared, "log")
	c.Spec.Root.Readonly = false
	c.Spec.Mounts = append(c.Spec.Mounts, mount(shared, "bind", shared, "bind"))
	c.Spec.Hooks = &specs.Hooks{
		Prestart:        []specs.Hook{hook(log, "prestart")}, //nolint:staticcheck // deprecated, and still in use
		CreateRuntime:   []specs.Hook{hook(log, "createRuntime"), hook(log, "createRuntime2")},
		CreateContainer: []specs.Hook{hook(log, "createContainer")},
		StartContainer:  []specs.Hook{hook(log, "startContainer")},
		Poststart:       []specs.Hook{hook(log, "poststart")},
		Poststop:        []specs.Hook{hook(log, "poststop")},
	}
	c.writeConfig()
	c.leave("create", "--bundle", c.Bundle, c.ID)
	host, inside := namespaceOf(t, "self", "net"), namespaceOf(t, fmt.Sprint(c.state().Pid), "net")
	lines := func(want ...string) {
		t.Helper()
		wantEqual(t, readFile(t, log), strings.Join(want, "\n"))
	}
	created := []string{
		"prestart " + host + " creating blue", "createRuntime " + host + " creating blue",
		"createRuntime2 " + host + " creating blue", "createContainer " + inside + " creating blue",
	}
	lines(created...)
	c.must("start", c.ID)
	started := append(created, "startContainer "+inside+" created blue", "poststart "+host+" running blue")
	lines(started...)
	c.must("delete", "--force", c.ID)
	lines(append(started, "poststop "+host+" stopped blue")...)
}

func TestHookState(t *testing.T) {
	c := newContainer(t, "true")
	file := filepath.Join(t.TempDir(), "state")
	c.Spec.Annotations = map[string]string{"a": "b"}
	c.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > " + file}}}}
	c.output()
	var st specs.State
	if err := json.Unmarshal([]byte(readFile(t, file)), &st); err != nil {
		t.Fatal(err)
	}
	if st.ID != c.ID || st.Bundle != c.Bundle || st.Pid == 0 || st.Annotations["a"] != "b" || st.Version == "" {
		t.Errorf("state %+v", st)
	}
}

func TestFailingHooks(t *testing.T) {
	failing := specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "echo reason >&2; exit 3"}}
	timeout := 1
	slow := specs.Hook{Path: "/bin/sleep", Args: []string{"sleep", "100"}, Timeout: &timeout}
	for name, test := range map[string]struct {
		hooks specs.Hooks
		want  string
	}{
		"createRuntime":    {specs.Hooks{CreateRuntime: []specs.Hook{failing}}, "reason"},
		"createContainer":  {specs.Hooks{CreateContainer: []specs.Hook{failing}}, "exit status 3"},
		"startContainer":   {specs.Hooks{StartContainer: []specs.Hook{failing}}, "exit status 3"},
		"missing":          {specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/does/not/exist"}}}, "/does/not/exist"},
		"timeout":          {specs.Hooks{CreateRuntime: []specs.Hook{slow}}, "timeout of 1 s"},
		"timeout inside":   {specs.Hooks{CreateContainer: []specs.Hook{slow}}, "timeout of 1 s"},
		"timeout at start": {specs.Hooks{StartContainer: []specs.Hook{slow}}, "timeout of 1 s"},
		"prestart":         {specs.Hooks{Prestart: []specs.Hook{failing}}, "reason"}, //nolint:staticcheck // deprecated, and still in use
		"poststart":        {specs.Hooks{Poststart: []specs.Hook{failing}}, "reason"},
		"no interpreter":   {specs.Hooks{CreateContainer: []specs.Hook{{Path: "/etc/passwd"}}}, `hook createContainer[0] "/etc/passwd": `},
		"second":           {specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}, failing}}, "hook createRuntime[1]"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "echo", "started")
			c.Spec.Hooks = &test.hooks
			c.refused(test.want)
			if name != "poststart" { // which is called when the program runs already
				wantEqual(t, c.run().Stdout, "")
			}
		})
	}
}

// TestFailuresEndTheContainer: after a hook that fails nothing of the container is left, and the last hooks have run.
func TestFailuresEndTheContainer(t *testing.T) {
	for name, change := range map[string]func(h *specs.Hooks, failing []specs.Hook){
		"prestart":        func(h *specs.Hooks, failing []specs.Hook) { h.Prestart = failing }, //nolint:staticcheck // deprecated, and still in use
		"createRuntime":   func(h *specs.Hooks, failing []specs.Hook) { h.CreateRuntime = failing },
		"createContainer": func(h *specs.Hooks, failing []specs.Hook) { h.CreateContainer = failing },
		"startContainer":  func(h *specs.Hooks, failing []specs.Hook) { h.StartContainer = failing },
		"poststart":       func(h *specs.Hooks, failing []specs.Hook) { h.Poststart = failing },
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "sleep", "1000")
			log := filepath.Join(t.TempDir(), "log")
			c.Spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{hook(log, "poststop")}}
			change(c.Spec.Hooks, []specs.Hook{{Path: "/bin/false"}, hook(log, "after the failure")})
			c.writeConfig()
			want := "hook " + name + `[0] "/bin/false": exit status 1`
			if strings.HasPrefix(name, "create") || name == "prestart" {
				c.wantFailure(want, "create", "--bundle", c.Bundle, c.ID)
			} else {
				c.leave("create", "--bundle", c.Bundle, c.ID)
				c.wantFailure(want, "start", c.ID)
			}
			c.wantFailure("container does not exist", "state", c.ID)
			c.gone()
			wantEqual(t, readFile(t, log), "poststop "+namespaceOf(t, "self", "net")+" stopped blue")
		})
	}
}

// TestHooksFindTheMounts: what the configuration has is mounted when the hooks come, and what they mount is on top of it.
func TestHooksFindTheMounts(t *testing.T) {
	c := newContainer(t)
	shared := t.TempDir()
	script := "set -e; cat > %[1]s/%[2]s.state; grep -c ' %[3]s/dev/shm ' /proc/self/mountinfo > %[1]s/%[2]s || true; pwd >> %[1]s/%[2]s; "
	inside := "mkdir %[3]s/dev/shm/hooked; touch %[3]s/etc/hooked; mount -t tmpfs hooked %[3]s/sys/kernel; mkdir %[3]s/sys/kernel/hooked"
	c.Spec.Hooks = &specs.Hooks{
		CreateRuntime:   []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", fmt.Sprintf(script, shared, "runtime", c.Rootfs)}}},
		CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", fmt.Sprintf(script+inside, shared, "container", c.Rootfs)}}},
		StartContainer:  []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", fmt.Sprintf("cat > %[1]s/start.state; pwd > %[1]s/start", shared)}}},
	}
	c.Spec.Mounts = append(c.Spec.Mounts, mount(shared, "bind", shared, "bind"))
	c.Spec.Root.Readonly = false
	c.Spec.Linux.MaskedPaths = nil
	c.shell("ls -d /sys/kernel/hooked /dev/shm/hooked /dev/null /etc/hooked; echo $$")
	wantEqual(t, c.output(), "/dev/null\n/dev/shm/hooked\n/etc/hooked\n/sys/kernel/hooked\n1\n")
	wantEqual(t, readFile(t, filepath.Join(shared, "runtime")), "0\n"+c.Bundle)
	wantEqual(t, readFile(t, filepath.Join(shared, "container")), "1\n"+c.Rootfs)
	wantEqual(t, readFile(t, filepath.Join(shared, "start")), "/")
	if mounts := readFile(t, "/proc/self/mountinfo"); strings.Contains(mounts, c.Rootfs) {
		t.Error("a mount of the container's has reached the host")
	}
	for name, isFirst := range map[string]bool{"runtime": false, "container": true, "start": true} {
		var st specs.State
		if err := json.Unmarshal([]byte(readFile(t, filepath.Join(shared, name+".state"))), &st); err != nil {
			t.Fatal(err)
		}
		if (st.Pid == 1) != isFirst || st.Pid == 0 {
			t.Errorf("%s: the first process has pid %d", name, st.Pid)
		}
	}
}

// TestHookEnvironment: a hook has what its configuration says, and if that says nothing what the runtime has, or in the
// container what its program has.
func TestHookEnvironment(t *testing.T) {
	shared := t.TempDir()
	c := newContainer(t, "true")
	show := func(name string, env []string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", fmt.Sprintf(`echo "$0 $COLOUR" > %s/%s`, shared, name), "called " + name}, Env: env}}
	}
	c.Spec.Process.Env = append(c.Spec.Process.Env, "COLOUR=green")
	c.Spec.Hooks = &specs.Hooks{
		Prestart: show("given", []string{"COLOUR=blue"}), CreateRuntime: show("runtime", nil), CreateContainer: show("container", nil), //nolint:staticcheck // deprecated, and still in use
		StartContainer: show("start", nil), Poststart: show("none", []string{"X=1"}), Poststop: []specs.Hook{{Path: "/usr/bin/touch", Args: []string{"touch", shared + "/stopped"}}},
	}
	c.Spec.Mounts = append(c.Spec.Mounts, mount(shared, "bind", shared, "bind"))
	c.Spec.Root.Readonly = false
	t.Setenv("COLOUR", "red")
	c.output()
	for name, want := range map[string]string{
		"given": "called given blue", "runtime": "called runtime red", "container": "called container red", "start": "called start green", "none": "called none", "stopped": "",
	} {
		wantEqual(t, readFile(t, filepath.Join(shared, name)), want)
	}
}

func TestFailingPoststop(t *testing.T) {
	c := newContainer(t, "true")
	file := filepath.Join(t.TempDir(), "ran")
	c.Spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{
		{Path: "/bin/false"}, {Path: "/bin/sh", Args: []string{"sh", "-c", "touch " + file}},
	}}
	r := c.run()
	if r.Status != 0 || !strings.Contains(r.Stderr, `warning: cannot run hook poststop[0] "/bin/false": exit status 1`) {
		t.Errorf("the failure is no mere warning: %+v", r)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("the hook behind a failing one has not run")
	}
	c.gone()
}

// TestHooksOfUsers: those of a container with users of its own are its root and its user, who may less than the host's.
func TestHooksOfUsers(t *testing.T) {
	c := newContainer(t, "cut", "-d", " ", "-f", "-3,5", "/dev/shm/hooks")
	mapUsers(t, c)
	c.Spec.Process.User = specs.User{UID: 5, GID: 6}
	c.Spec.Hooks = &specs.Hooks{
		CreateContainer: whereHook("create", "dev/shm/hooks; chmod 666 dev/shm/hooks"), StartContainer: whereHook("start", "/dev/shm/hooks"),
	}
	wantEqual(t, c.output(), "create 0 "+c.Rootfs+" 1\nstart 5 / 1\n")
}
