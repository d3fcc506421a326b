package checkpoint_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// The files of a checkpoint make a container of another name, in another state directory, cgroup and place.
func TestElsewhere(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	c.Spec.Root.Readonly = true
	c.Spec.Annotations = map[string]string{"org.example.kept": "here"}
	c.run().ask("a", "a 1")
	c.checkpoint()

	there := newContainer(t, "never executed")
	there.StateDir, there.ID = there.path("elsewhere"), there.ID+"-there"
	there.Rootfs = c.Rootfs
	there.Spec.Root.Path, there.Spec.Root.Readonly = c.Rootfs, true
	there.Spec.Annotations = map[string]string{"org.example.kept": "there"}
	there.Spec.Linux.CgroupsPath = testenv.CgroupParent + "/" + there.ID
	there.writeConfig()
	talk := there.detached("restore", "-d", "-b", there.Dir, "--image-path", c.path("images"), there.ID)
	talk.ask("b", "b 2")
	if state := there.state(); state.Status != "running" || state.Annotations["org.example.kept"] != "there" || state.Bundle != there.Dir {
		t.Errorf("state: %+v", state)
	}
	if content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", there.state().Pid)); err != nil || !strings.Contains(string(content), testenv.CgroupParent+"/"+there.ID+"\n") || strings.Contains(string(content), c.ID+"\n") {
		t.Errorf("cgroups: %s, %v", content, err)
	}
	if r := there.verb("exec", there.ID, "touch", "/file"); r.Status == 0 {
		t.Error("the root can be written to")
	}
	c.refused("does not exist", "state", c.ID)
	c.gone()
}

// All that can be done with a running container can be done with a restored one.
func TestLifeAfterwards(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "trap 'exit 3' TERM; sleep 1000 & "+echo)
	c.run().ask("a", "a 1")
	c.checkpoint()
	c.restore().ask("b", "b 2")

	var event struct {
		Type, ID string
		Data     struct {
			Pids struct{ Current int }
		}
	}
	if err := json.Unmarshal([]byte(c.must("events", "--stats", c.ID)), &event); err != nil || event.Type != "stats" || event.ID != c.ID || event.Data.Pids.Current != 2 {
		t.Errorf("events: %+v, %v", event, err)
	}
	if got := c.must("list", "--quiet"); strings.TrimSpace(got) != c.ID {
		t.Errorf("list: %q", got)
	}
	if got := c.must("ps", c.ID); strings.Count(got, "\n") != 3 || !strings.Contains(got, "sleep 1000") {
		t.Errorf("ps: %q", got)
	}
	c.must("update", "--pids-limit", "44", c.ID)
	c.refused("not stopped", "delete", c.ID)
	pid := c.state().Pid
	c.must("kill", c.ID, "TERM")
	c.awaitEnd(pid)
	if got := c.status(); got != "stopped" {
		t.Errorf("status %q", got)
	}
	c.must("delete", c.ID)
	c.gone()
}

// Processes that were executed later are not part of it, as they are no children of the first one, and that is said.
func TestExecuted(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "sleep 1001 & "+echo)
	c.run().ask("a", "a 1")
	if err := c.command("exec", "--detach", c.ID, "sleep", "1002").Run(); err != nil { // with no pipe that it would keep open
		t.Fatal(err)
	}
	command := c.command("checkpoint", "--image-path", c.path("images"), c.ID)
	command.Args = append([]string{command.Args[0], "--log", c.path("log")}, command.Args[1:]...)
	if r := testenv.Execute(t, command); r.Status != 0 {
		t.Fatalf("%+v\n%s", r, c.logs())
	}
	if log, err := os.ReadFile(c.path("log")); err != nil || !strings.Contains(string(log), "without processes") {
		t.Errorf("log %q, %v", log, err)
	}
	c.restore().ask("c", "c 2")
	if got := c.must("ps", c.ID); !strings.Contains(got, "sleep 1001") || strings.Contains(got, "sleep 1002") {
		t.Errorf("processes: %s", got)
	}
}

// A filter of system calls holds for what goes on, and namespaces that are joined are joined again.
func TestSeccomp(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, `while read line; do mkdir "/tmp/$line" 2>&1; done`)
	c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: new(uint)},
	}}
	*c.Spec.Linux.Seccomp.Syscalls[0].ErrnoRet = 95
	c.run().ask("a", "mkdir: can't create directory '/tmp/a': Operation not supported")
	c.checkpoint()
	c.restore().ask("b", "mkdir: can't create directory '/tmp/b': Operation not supported")
}

func TestJoinedNamespaces(t *testing.T) {
	testenv.NeedCRIU(t)
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		t.Run(string(kind), func(t *testing.T) {
			testenv.NeedCRIU(t)
			c := newContainer(t, echo)
			sleeper := exec.Command("unshare", "--"+string(kind), "--fork", "sh", "-c", "echo; exec sleep 1000")
			talk := connect(t, sleeper)
			if err := sleeper.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _, _ = sleeper.Process.Kill(), sleeper.Wait() })
			talk.expect("")
			child, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", sleeper.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = exec.Command("kill", "-9", strings.TrimSpace(string(child))).Run() })
			path := "/proc/" + strings.TrimSpace(string(child)) + "/ns/" + string(kind)
			i := slices.IndexFunc(c.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
			c.Spec.Linux.Namespaces[i].Path = path
			if kind == specs.UTSNamespace {
				c.Spec.Hostname = ""
			}
			want, err := os.Readlink(path)
			if err != nil {
				t.Fatal(err)
			}
			c.run().ask("a", "a 1")
			pid := c.state().Pid
			c.checkpoint()
			testenv.Until(t, time.Minute, "the numbers of the processes are free", func() error {
				if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("process %d is there: %w", pid, errors.Join(err))
				}
				return nil
			})
			c.restore().ask("b", "b 2")
			if got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.state().Pid, kind)); err != nil || got != want {
				t.Errorf("namespace %s, %v, want %s", got, err, want)
			}
		})
	}
}

// In the foreground the runtime copies the terminal that it is given back.
func TestForegroundTerminal(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "stty -echo; echo ready; "+echo)
	c.Spec.Process.Terminal = true
	c.writeConfig()
	path, accept := consoleSocket(t, c)
	c.detached("run", "--detach", "--bundle", c.Dir, "--console-socket", path, c.ID)
	talk := accept()
	talk.expect("ready")
	talk.ask("a", "a 1")
	c.checkpoint()
	command := c.command("restore", "--bundle", c.Dir, "--image-path", c.path("images"), c.ID)
	talk = connect(t, command)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	talk.ask("b", "b 2")
	c.must("kill", c.ID, "KILL")
	_ = command.Wait()
	if got := command.ProcessState.ExitCode(); got != 137 {
		t.Errorf("status %d", got)
	}
	c.gone()
}

// Another profile takes the place of the one that a container had, and what is not to be had is no reason to go on
// without.
func TestProfile(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	confined := testenv.LoadAppArmor(t, "berth-test-first", "/first") && testenv.LoadAppArmor(t, "berth-test-second", "/second")
	if confined {
		c.Spec.Process.ApparmorProfile = "berth-test-first"
	}
	c.run().ask("a", "a 1")
	c.checkpoint()
	for _, profile := range []string{"no-such-module:profile", "apparmor:berth-no-such-profile"} {
		c.refused("cannot restore", "restore", "--detach", "--lsm-profile", profile, "--bundle", c.Dir, "--image-path", c.path("images"), c.ID)
	}
	c.gone()
	if !confined {
		return
	}
	c.restore("--lsm-profile", "apparmor:berth-test-second").ask("b", "b 2")
	if got := c.must("exec", c.ID, "cat", "/proc/1/attr/current"); got != "berth-test-second (enforce)\n" {
		t.Errorf("profile %q", got)
	}
}

// A container without a profile does not get one silently not.
func TestProfileOfUnconfined(t *testing.T) {
	testenv.NeedCRIU(t)
	if !testenv.LoadAppArmor(t, "berth-test-second", "/second") {
		t.Skip("needs a kernel with AppArmor, as make test-vm has")
	}
	c := newContainer(t, echo)
	c.run().ask("a", "a 1")
	c.checkpoint()
	c.refused("has not applied", "restore", "--detach", "--lsm-profile", "apparmor:berth-test-second", "--bundle", c.Dir, "--image-path", c.path("images"), c.ID)
	c.gone()
}

// The files outside that the container writes to are the caller's at the restore, and what is no pipe needs no reader.
func TestDescriptors(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, `i=0; trap 'i=$((i+1)); echo out $i; echo err $i >&2' USR1; echo out $i; while :; do sleep 1000 & wait; done`)
	c.writeConfig()
	fifo := c.path("fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	start := func(log string, args ...string) {
		t.Helper()
		out, err := os.OpenFile(c.path(log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		errs, err := os.OpenFile(fifo, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer errs.Close()
		command := c.command(args...)
		command.Stdout, command.Stderr = out, errs
		if err := command.Run(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, c.logs())
		}
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	talk := &conversation{t: t, in: reader, out: reader, lines: bufio.NewScanner(reader)}
	start("first", "run", "--detach", "--bundle", c.Dir, c.ID)
	testenv.Until(t, time.Minute, "the container has begun", func() error { return c.wrote("first", "out 0\n") })
	c.must("kill", c.ID, "USR1")
	talk.expect("err 1")
	c.checkpoint()
	start("second", "restore", "--detach", "--bundle", c.Dir, "--image-path", c.path("images"), c.ID)
	c.must("kill", c.ID, "USR1")
	talk.expect("err 2")
	if err := errors.Join(c.wrote("first", "out 0\nout 1\n"), c.wrote("second", "out 2\n")); err != nil {
		t.Error(err)
	}
}

func (c *container) wrote(file, want string) error {
	got, err := os.ReadFile(c.path(file))
	if err == nil && string(got) != want {
		err = fmt.Errorf("%s has %q, want %q", file, got, want)
	}
	return err
}
