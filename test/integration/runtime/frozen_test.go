package runtime_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// freezer returns the directory and the file of the cgroup path, which it makes, that stop its processes, with the values.
func freezer(t *testing.T, path string) (dir, file, frozen, thawed string) {
	t.Helper()
	dir, file, frozen, thawed = "/sys/fs/cgroup/freezer"+path, "freezer.state", "FROZEN", "THAWED"
	if onV2(t) {
		dir, file, frozen, thawed = "/sys/fs/cgroup"+path, "cgroup.freeze", "1", "0"
	} else if _, err := os.Stat("/sys/fs/cgroup/freezer"); err != nil {
		t.Skip("needs the freezer of cgroups, which is not mounted")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(dir, file), frozen, thawed
}

func writeTo(t *testing.T, file, value string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// soon is verb for what must not hang.
func (c *container) soon(limit time.Duration, args ...string) testenv.Outcome {
	c.t.Helper()
	limit = testenv.Patience(limit)
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	command := c.command(args...)
	limited := exec.CommandContext(ctx, command.Path, command.Args[1:]...)
	limited.WaitDelay = time.Second // what it has started may have its output
	var stdout, stderr bytes.Buffer
	limited.Stdout, limited.Stderr = &stdout, &stderr
	_ = limited.Run()
	if ctx.Err() != nil {
		c.t.Errorf("%v takes longer than %v", args, limit)
	}
	return testenv.Outcome{Stdout: stdout.String(), Stderr: stderr.String(), Status: limited.ProcessState.ExitCode()}
}

// TestFrozenCgroup: a process in a cgroup that is frozen would never run, and nobody would be told why.
func TestFrozenCgroup(t *testing.T) {
	for name, above := range map[string]string{"its own": "", "the one above": "/.."} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "true")
			c.Spec.Linux.CgroupsPath = testenv.CgroupParent + "/frozen/" + c.ID
			_, file, frozen, thawed := freezer(t, filepath.Clean(c.Spec.Linux.CgroupsPath+above))
			writeTo(t, file, frozen)
			t.Cleanup(func() { writeTo(t, file, thawed) })
			c.writeConfig()
			for _, verb := range []string{"run", "create"} {
				r := c.soon(10*time.Second, verb, "--bundle", c.Bundle, c.ID)
				if r.Status != 1 || !strings.Contains(r.Stderr, "is frozen") {
					t.Errorf("%s: %+v", verb, r)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(c.State, c.ID)); len(left) > 0 {
				t.Errorf("%v is left", left)
			}
		})
	}
}

// TestFrozenByAHook: the cgroup is frozen when the container's process is in it already.
func TestFrozenByAHook(t *testing.T) {
	c := newContainer(t, "true")
	_, file, frozen, _ := freezer(t, testenv.CgroupParent)
	file = filepath.Join(filepath.Dir(file), c.ID, filepath.Base(file))
	c.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo " + frozen + " > " + file}}}}
	c.writeConfig()
	r := c.soon(20*time.Second, "run", "--bundle", c.Bundle, c.ID)
	if r.Status != 1 || !strings.Contains(r.Stderr, "has been frozen") {
		t.Errorf("%+v", r)
	}
	c.gone()
}

// TestRunCanBeEnded: a signal ends the runtime while its process does not get ready, and delete finds what is left.
func TestRunCanBeEnded(t *testing.T) {
	for _, verb := range []string{"run", "create"} {
		c := newContainer(t, "true")
		started := filepath.Join(c.Bundle, "started")
		c.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo $$ > " + started + "; exec sleep 4712"}}}}
		c.writeConfig()
		command := c.command(verb, "--bundle", c.Bundle, c.ID)
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		testenv.WaitFor(t, "the hook", func() bool { content, _ := os.ReadFile(started); return len(content) > 0 })
		t.Cleanup(func() { killHook(t, started) })
		end := time.AfterFunc(testenv.Patience(15*time.Second), func() {
			t.Errorf("%s does not end by SIGTERM", verb)
			_ = command.Process.Kill()
		})
		if err := command.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		_ = command.Wait()
		end.Stop()
		if command.ProcessState.Success() {
			t.Errorf("%s succeeds though it was ended", verb)
		}
		if r := c.soon(15*time.Second, "delete", "--force", c.ID); r.Status != 0 {
			t.Errorf("delete after %s: %+v", verb, r)
		}
		c.gone()
	}
}

// killHook kills the process whose pid a hook has written.
func killHook(t *testing.T, file string) {
	t.Helper()
	for _, p := range testenv.Processes(t, "sleep\x004712\x00") {
		if readFile(t, file) == itoa(p.Pid) {
			_ = unix.Kill(p.Pid, unix.SIGKILL)
		}
	}
}
