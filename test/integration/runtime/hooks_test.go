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
		"createRuntime":   {specs.Hooks{CreateRuntime: []specs.Hook{failing}}, "reason"},
		"createContainer": {specs.Hooks{CreateContainer: []specs.Hook{failing}}, "exit status 3"},
		"startContainer":  {specs.Hooks{StartContainer: []specs.Hook{failing}}, "exit status 3"},
		"missing":         {specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/does/not/exist"}}}, "/does/not/exist"},
		"timeout":         {specs.Hooks{CreateRuntime: []specs.Hook{slow}}, "timeout of 1 s"},
		"timeout inside":  {specs.Hooks{CreateContainer: []specs.Hook{slow}}, "timeout of 1 s"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "echo", "started")
			c.Spec.Hooks = &test.hooks
			c.refused(test.want)
			wantEqual(t, c.run().Stdout, "")
		})
	}
}

func TestFailingPoststop(t *testing.T) {
	c := newContainer(t, "true")
	file := filepath.Join(t.TempDir(), "ran")
	c.Spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{
		{Path: "/bin/false"}, {Path: "/bin/sh", Args: []string{"sh", "-c", "touch " + file}},
	}}
	c.run()
	if _, err := os.Stat(file); err != nil {
		t.Error("the hook behind a failing one has not run")
	}
	c.gone()
}
