package runtime_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

func itoa(n int) string { return strconv.Itoa(n) }

// nested returns a hook that executes the runtime for its own container, and writes what comes of it to a file.
func (c *container) nested(file string, args ...string) specs.Hook {
	c.t.Helper()
	line := strings.Join(c.command(args...).Args, " ")
	script := fmt.Sprintf("timeout 30 %s > %s 2>&1; echo status $? >> %s", line, file, file)
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}}
}

// TestHooksCallTheRuntime: a hook's own container can be asked and changed, or the hook is told that it can't be yet.
func TestHooksCallTheRuntime(t *testing.T) {
	const creating, gone = "it is creating", "does not exist"
	for _, test := range []struct {
		hook, verb string
		want       string // of the output; the status is 0 unless it is a refusal
	}{
		{"createRuntime", "state", `"status": "creating"`},
		{"createRuntime", "pause", creating},
		{"createRuntime", "resume", creating},
		{"createRuntime", "update --pids-limit 50", creating},
		{"createRuntime", "start", creating},
		{"createRuntime", "exec", creating},
		{"createRuntime", "delete", creating},
		{"createContainer", "pause", creating},
		{"createContainer", "update --pids-limit 50", creating},
		{"poststart", "state", `"status": "running"`},
		{"poststart", "pause", ""},
		{"poststart", "update --pids-limit 50", ""},
		{"poststart", "resume", "it is running"},
		{"poststart", "start", "it is running"},
		{"poststart", "delete", "it is running"},
		{"poststop", "state", gone},
		{"poststop", "pause", gone},
		{"poststop", "delete", gone},
		{"poststop", "delete --force", ""},
	} {
		t.Run(test.hook+" "+test.verb, func(t *testing.T) {
			c := newContainer(t, "sleep", "1000")
			file := filepath.Join(c.Bundle, "answer")
			verb, options, _ := strings.Cut(test.verb, " ")
			args := append(append([]string{verb}, strings.Fields(options)...), c.ID)
			if verb == "exec" {
				args = append(args, "true")
			}
			c.Spec.Hooks = hooksAt(test.hook, c.nested(file, args...))
			c.writeConfig()
			c.leave("create", "--bundle", c.Bundle, c.ID)
			if r := c.soon(20*time.Second, "start", c.ID); r.Status != 0 {
				t.Errorf("start: %+v", r)
			}
			if r := c.soon(20*time.Second, "delete", "--force", c.ID); r.Status != 0 {
				t.Errorf("delete: %+v", r)
			}
			answer := readFile(t, file)
			wantContains(t, answer, test.want)
			refused := test.want == creating || test.want == gone || test.want == "it is running"
			if strings.HasSuffix(answer, "status 0") == refused {
				t.Errorf("the hook is told %q", answer)
			}
			c.gone()
		})
	}
}

func hooksAt(kind string, hook specs.Hook) *specs.Hooks {
	list := []specs.Hook{hook}
	switch kind {
	case "createRuntime":
		return &specs.Hooks{CreateRuntime: list}
	case "createContainer":
		return &specs.Hooks{CreateContainer: list}
	case "poststart":
		return &specs.Hooks{Poststart: list}
	}
	return &specs.Hooks{Poststop: list}
}

// TestHooksEndTheirContainer: the command that runs the hook notices, and leaves nothing of the container behind.
func TestHooksEndTheirContainer(t *testing.T) {
	for _, test := range []struct{ hook, verb, failing, want string }{
		{"createRuntime", "kill ID KILL", "create", "the container's process"},
		{"createRuntime", "delete --force ID", "create", "it has been deleted while its hooks ran"},
		{"poststart", "kill ID KILL", "", ""},
		{"poststart", "delete --force ID", "", ""},
	} {
		t.Run(test.hook+" "+test.verb, func(t *testing.T) {
			c := newContainer(t, "sleep", "1000")
			file := filepath.Join(c.Bundle, "answer")
			c.Spec.Hooks = hooksAt(test.hook, c.nested(file, strings.Fields(strings.Replace(test.verb, "ID", c.ID, 1))...))
			c.writeConfig()
			if test.failing == "create" {
				r := c.soon(20*time.Second, "create", "--bundle", c.Bundle, c.ID)
				if r.Status != 1 || !strings.Contains(r.Stderr, test.want) {
					t.Errorf("create: %+v", r)
				}
			} else {
				c.leave("create", "--bundle", c.Bundle, c.ID)
				if r := c.soon(20*time.Second, "start", c.ID); r.Status != 0 {
					t.Errorf("start: %+v", r)
				}
				c.must("delete", "--force", c.ID)
			}
			wantEqual(t, readFile(t, file), "status 0")
			c.gone()
		})
	}
}

// TestBusy: a command that waits for ever keeps others out only for a while.
func TestBusy(t *testing.T) {
	c := sleeping(t, nil)
	dir, err := os.Open(filepath.Join(c.State, c.ID))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	r := c.soon(25*time.Second, "pause", c.ID)
	if r.Status != 1 || !strings.Contains(r.Stderr, "another command still works on it") {
		t.Errorf("pause: %+v", r)
	}
	c.wantStatus("running") // to be asked takes no lock
	done := make(chan testenv.Outcome)
	go func() { done <- testenv.Execute(t, c.command("delete", "--force", c.ID)) }()
	// It kills the process, by which a command that waits for it comes to its end.
	testenv.WaitFor(t, "the process to be killed", func() bool { return c.state().Status == "stopped" })
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.Status != 0 {
		t.Errorf("delete --force: %+v", r)
	}
	c.gone()
}

// TestDeleteIsRepeated: what can't be removed at first is known to the next delete.
func TestDeleteIsRepeated(t *testing.T) {
	if onV2(t) {
		t.Skip("with cgroup v2 the runtime kills all that is in the cgroup: see TestDeleteBesideAProcessThatCannotEnd")
	}
	for _, how := range []string{"delete", "run"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			c := newContainer(t, "true")
			c.Spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo called >> " + c.Bundle + "/poststop"}}}}
			stranger := exec.Command("sleep", "4713")
			if err := stranger.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stranger.Process.Kill() }()
			occupy := fmt.Sprintf("mkdir %[1]s; echo %[2]d > %[1]s/cgroup.procs", "/sys/fs/cgroup/pids"+c.Spec.Linux.CgroupsPath+"/x", stranger.Process.Pid)
			c.Spec.Hooks.Poststart = []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", occupy}}}
			var r testenv.Outcome
			if how == "run" {
				r = c.run()
			} else {
				c.start()
				testenv.WaitFor(t, "the process to end", func() bool { return c.state().Status == "stopped" })
				r = c.verb("delete", c.ID)
			}
			if r.Status == 0 || !strings.Contains(r.Stderr, "cannot remove the cgroup") {
				t.Errorf("%s: %+v", how, r)
			}
			c.wantStatus("stopped")
			_ = stranger.Process.Kill()
			_ = stranger.Wait()
			c.must("delete", c.ID)
			c.gone()
			wantEqual(t, readFile(t, c.Bundle+"/poststop"), "called") // once, when it is really gone
		})
	}
}

// frozenFilesystem returns the directory of a file system that may be frozen, in which case processes that write to it can't
// be killed, and a function that thaws it.
func frozenFilesystem(t *testing.T) (dir string, thaw func()) {
	t.Helper()
	dir, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"truncate -s 16M " + image, "mkfs.ext4 -q " + image, "mount -o loop " + image + " " + dir} {
		args := strings.Fields(line)
		if output, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs loop devices with ext4: %s: %v: %s", line, err, output)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("cannot unmount %s: %v", dir, err)
		}
	})
	if output, err := exec.Command("fsfreeze", "--freeze", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	thaw = sync.OnceFunc(func() {
		if output, err := exec.Command("fsfreeze", "--unfreeze", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, output)
		}
	})
	t.Cleanup(thaw)
	return dir, thaw
}

// TestDeleteBesideAProcessThatCannotEnd: the container is known until its last process has left the cgroup.
func TestDeleteBesideAProcessThatCannotEnd(t *testing.T) {
	for _, how := range []string{"delete", "run"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir, thaw := frozenFilesystem(t)
			c := newContainer(t)
			c.shell("echo > /mnt/file & until grep -q State:.D /proc/$!/status; do sleep 0.02; done")
			c.Spec.Linux.Namespaces = slices.DeleteFunc(c.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
			c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Type: "bind", Source: dir, Destination: "/mnt", Options: []string{"rbind", "rprivate"}})
			var r testenv.Outcome
			if how == "run" {
				c.writeConfig()
				r = c.soon(40*time.Second, "run", "--bundle", c.Bundle, c.ID)
			} else {
				c.start()
				testenv.WaitFor(t, "the first process to end", func() bool { return c.state().Status == "stopped" })
				r = c.soon(40*time.Second, "delete", c.ID)
			}
			if r.Status == 0 || !strings.Contains(r.Stderr, "cannot remove the cgroup") {
				t.Errorf("%s: %+v", how, r)
			}
			c.wantStatus("stopped")
			thaw()
			c.must("delete", c.ID)
			c.gone()
		})
	}
}

// TestDeleteAfterAKilledCreate needs no --force: the create that would be disturbed is gone.
func TestDeleteAfterAKilledCreate(t *testing.T) {
	whole := newContainer(t, "sleep", "1000")
	whole.writeConfig()
	begin := time.Now()
	whole.leave("create", "--bundle", whole.Bundle, whole.ID)
	found, took := map[string]int{}, time.Since(begin)
	for part := range time.Duration(25) {
		delay := part * took / 20
		c := newContainer(t, "sleep", "1000")
		c.writeConfig()
		create := c.command("create", "--bundle", c.Bundle, c.ID)
		if err := create.Start(); err != nil {
			t.Fatal(err)
		}
		end := time.AfterFunc(delay, func() { _ = create.Process.Kill() })
		_ = create.Wait()
		end.Stop()
		r := c.verb("state", c.ID)
		if r.Status != 0 {
			continue // it had not got so far that anybody knows of it
		}
		found[stateIn(r.Stdout).Status]++
		c.must("delete", c.ID)
		c.gone()
	}
	t.Logf("of %v %v", took, found)
}

// TestReceiversThatDoNotAccept: a program that listens and has no time for anybody does not keep the runtime.
func TestReceiversThatDoNotAccept(t *testing.T) {
	for _, flag := range []string{"--console-socket", "--pidfd-socket"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			c := newContainer(t, "true")
			c.Spec.Process.Terminal = flag == "--console-socket"
			c.writeConfig()
			path := filepath.Join(c.Bundle, "socket")
			connect := func(listens bool) {
				t.Helper()
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err == nil && listens {
					err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0))
				} else if err == nil {
					err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = unix.Close(fd) })
			}
			connect(true)
			connect(false) // which is all that the kernel keeps waiting
			r := c.soon(25*time.Second, "create", "--bundle", c.Bundle, flag, path, c.ID)
			if r.Status != 1 || !strings.Contains(r.Stderr, "has not been accepted within 10s") {
				t.Errorf("%+v", r)
			}
			c.gone()
		})
	}
}
