// Package runtime_test drives berth-runtime by its command line, as engines do, and looks at the effects from inside
// the containers and from the host.
package runtime_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// container is a bundle, and after create or run what lives of it. It goes away with the test.
type container struct {
	t      testing.TB
	ID     string
	Bundle string
	Rootfs string
	State  string // --root
	Spec   *specs.Spec
	Flags  []string // in front of the verb
}

var counter atomic.Int32

// newContainer returns a container with the example configuration and busybox, which executes args without a terminal.
func newContainer(t testing.TB, args ...string) *container {
	t.Helper()
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	c := &container{
		t: t, ID: fmt.Sprintf("bt%d-%d", os.Getpid(), counter.Add(1)), Bundle: dir, State: filepath.Join(dir, "state"),
		Rootfs: testenv.BusyboxRootfs(t), Spec: testenv.ExampleSpec(t),
	}
	c.Spec.Process.Terminal = false
	c.Spec.Process.Args = args
	c.Spec.Root.Path = c.Rootfs
	c.Spec.Linux.CgroupsPath = testenv.CgroupParent + "/" + c.ID
	t.Cleanup(func() { c.verb("delete", "--force", c.ID) })
	return c
}

// shell makes the container execute a script.
func (c *container) shell(script string) *container {
	c.Spec.Process.Args = []string{"sh", "-c", script}
	return c
}

// writeConfig writes Spec to the bundle.
func (c *container) writeConfig() {
	c.t.Helper()
	content, err := json.Marshal(c.Spec)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Bundle, "config.json"), content, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// command is the runtime with a verb and its arguments.
func (c *container) command(args ...string) *exec.Cmd {
	flags := append([]string{"--root", c.State}, c.Flags...)
	return exec.Command(testenv.Runtime(c.t), append(flags, args...)...)
}

// verb executes the runtime and returns whatever comes of it.
func (c *container) verb(args ...string) testenv.Outcome {
	c.t.Helper()
	return testenv.Execute(c.t, c.command(args...))
}

// must is verb for what has to succeed. It returns the output.
func (c *container) must(args ...string) string {
	c.t.Helper()
	r := c.verb(args...)
	if r.Status != 0 {
		c.t.Fatalf("%s: status %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.Status, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// run runs the container to its end.
func (c *container) run(flags ...string) testenv.Outcome {
	c.t.Helper()
	c.writeConfig()
	return c.verb(append(append([]string{"run", "--bundle", c.Bundle}, flags...), c.ID)...)
}

// output runs the container, which has to succeed, and returns what it printed.
func (c *container) output() string {
	c.t.Helper()
	r := c.run()
	if r.Status != 0 {
		c.t.Fatalf("run: status %d\nstdout: %s\nstderr: %s", r.Status, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// start creates and starts the container, detached and with its output nowhere.
func (c *container) start() {
	c.t.Helper()
	c.writeConfig()
	create := c.command("create", "--bundle", c.Bundle, c.ID)
	log := filepath.Join(c.Bundle, "create.err")
	file, err := os.Create(log) // a pipe would stay open in the container, and be waited for
	if err != nil {
		c.t.Fatal(err)
	}
	defer file.Close()
	create.Stderr = file
	if err := create.Run(); err != nil {
		text, _ := os.ReadFile(log)
		c.t.Fatalf("create: %v: %s", err, text)
	}
	c.must("start", c.ID)
}

// refused runs the container, which has to fail with a sentence that contains want, and to leave nothing behind.
func (c *container) refused(want string) {
	c.t.Helper()
	r := c.run()
	if r.Status == 0 || !strings.Contains(r.Stderr, want) {
		c.t.Errorf("status %d, stderr %q, want %q", r.Status, r.Stderr, want)
	}
	if lines := strings.Count(strings.TrimSpace(r.Stderr), "\n"); lines > 0 {
		c.t.Errorf("the error is not one sentence: %q", r.Stderr)
	}
	c.gone()
}

// gone checks that neither state nor cgroups are left.
func (c *container) gone() {
	c.t.Helper()
	left, _ := filepath.Glob("/sys/fs/cgroup/*" + testenv.CgroupParent + "/" + c.ID)
	more, _ := filepath.Glob("/sys/fs/cgroup" + testenv.CgroupParent + "/" + c.ID)
	state, _ := filepath.Glob(filepath.Join(c.State, c.ID))
	if all := append(append(left, more...), state...); len(all) > 0 {
		c.t.Errorf("%v is left", all)
	}
}
