package shim_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/runtime/task/v3"
	taskstate "github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc/codes"

	"github.com/berthd/berth/test/testenv"
)

// wrapRuntime puts a shell script before the runtime. It has the runtime's path in $runtime, and the command in $verb.
func (c *container) wrapRuntime(script string) {
	c.t.Helper()
	path, _ := c.file("wrapper")
	text := fmt.Sprintf(`#!/bin/sh
runtime=%s
for word; do case $word in create|start|exec|kill|delete|pause|resume|update) verb=$word; break;; esac; done
%s
exec $runtime "$@"
`, c.runtime, script)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		c.t.Fatal(err)
	}
	c.runtime = path
}

// awaitFile waits until a file is there.
func awaitFile(t testing.TB, path string) {
	t.Helper()
	testenv.Until(t, usual, path+" is there", func() error {
		_, err := os.Stat(path)
		return err
	})
}

// A runtime that does not kill is killed itself, and its container is killed without it.
func TestKillWithARuntimeThatSleeps(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.wrapRuntime(`[ "$verb" != kill ] || sleep 1000`)
	c.create(streams{})
	c.run("")
	c.kill("", syscall.SIGKILL)
	c.expectExit("", 137)
	c.delete("")
	if left := testenv.Processes(t, c.runtime); len(left) > 0 {
		t.Errorf("the runtime is there still: %v", left)
	}
}

// A client learns within its time which runtime it was that did not end.
func TestClientLearnsOfARuntimeThatSleeps(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.wrapRuntime(`[ "$verb" != pause ] || sleep 1000`)
	c.create(streams{})
	c.run("")
	ctx, cancel := context.WithTimeout(t.Context(), usual/2)
	defer cancel()
	_, err := c.api.Pause(ctx, &task.PauseRequest{ID: c.ID})
	expectError(t, err, codes.DeadlineExceeded, c.runtime, "was killed")
	c.expectState("", taskstate.Status_RUNNING)
}

func TestKillAllWithARuntimeThatIsGone(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.wrapRuntime("")
	c.create(streams{})
	c.run("")
	c.exec("x", streams{}, "sleep", "1000")
	c.run("x")
	if err := os.Rename(c.runtime, c.runtime+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.api.Kill(c.ctx(), &task.KillRequest{ID: c.ID, Signal: 9, All: true}); err != nil {
		t.Error(err)
	}
	c.expectExit("x", 137)
	c.expectExit("", 137)
	if err := os.Rename(c.runtime+".away", c.runtime); err != nil {
		t.Fatal(err)
	}
}

// A start that hangs keeps neither the state from being asked for, nor the container from being killed.
func TestStartWithARuntimeThatSleeps(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	began, _ := c.file("began")
	c.wrapRuntime(`[ "$verb" != start ] || { echo > ` + began + `; exec sleep 1000; }`)
	c.create(streams{})
	started := make(chan error, 1)
	ctx := c.ctx()
	go func() {
		_, err := c.api.Start(ctx, &task.StartRequest{ID: c.ID})
		started <- err
	}()
	awaitFile(t, began)
	c.expectState("", taskstate.Status_CREATED)
	c.kill("", syscall.SIGKILL)
	c.expectExit("", 137)
	for _, p := range testenv.Processes(t, "sleep", "1000") {
		if wrapper, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.Pid)); err == nil && wrapper == c.Bundle {
			_ = syscall.Kill(p.Pid, syscall.SIGKILL) // the runtime, which would be killed after its limit
		}
	}
	if err := <-started; err == nil {
		t.Error("a container that was killed before was started")
	}
}

// What a runtime that hangs can't remove does not run on, and is removed when the runtime works again.
func TestDeleteWithARuntimeThatSleeps(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	awake, _ := c.file("awake")
	c.wrapRuntime(`[ "$verb" != delete ] || [ -e ` + awake + ` ] || kill -STOP $$`)
	pid := c.create(streams{})
	c.run("")
	c.killShim()
	// Longer than other tests: the runtime has half a minute.
	delete := exec.Command(c.program, "-namespace", namespace, "-id", c.ID, "-bundle", c.Bundle, "delete")
	output, err := delete.CombinedOutput()
	if err == nil || !strings.Contains(string(output), c.runtime) || !strings.Contains(string(output), "did not end within 30s") {
		t.Errorf("delete: %v, %s", err, output)
	}
	testenv.Until(t, usual, "the container's process has ended", func() error {
		if !zombie(pid) {
			return errors.New("it is there")
		}
		return nil
	})
	if err := os.WriteFile(awake, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.deleteVerb()
	c.expectNothingLeft()
}

// A manager that dies while the runtime works does not end the runtime's work.
func TestPauseOutlivesItsClient(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	began, _ := c.file("began")
	goOn, _ := c.file("go-on")
	c.wrapRuntime(`if [ "$verb" = pause ]; then
	echo > ` + began + `; while [ ! -e ` + goOn + ` ]; do sleep 0.01; done
fi`)
	c.create(streams{})
	c.run("")
	paused := make(chan error, 1)
	ctx := c.ctx()
	go func() {
		_, err := c.api.Pause(ctx, &task.PauseRequest{ID: c.ID})
		paused <- err
	}()
	awaitFile(t, began)
	if err := c.client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-paused; err == nil {
		t.Error("a closed client was answered")
	}
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.connect("unix://" + c.Bundle + "/shim.sock")
	testenv.Until(t, usual, "the container is paused", func() error {
		response, err := c.api.State(c.ctx(), &task.StateRequest{ID: c.ID})
		if err == nil && response.Status != taskstate.Status_PAUSED {
			err = errors.New(response.Status.String())
		}
		return err
	})
	if _, err := c.api.Resume(c.ctx(), &task.ResumeRequest{ID: c.ID}); err != nil {
		t.Fatal(err)
	}
	c.expectState("", taskstate.Status_RUNNING)
}

// Whoever freezes the container: the shim says so, and can undo it.
func TestStateIsTheFreezers(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.create(streams{})
	c.run("")
	c.freeze()
	c.expectState("", taskstate.Status_PAUSED)
	if _, err := c.api.Resume(c.ctx(), &task.ResumeRequest{ID: c.ID}); err != nil {
		t.Fatal(err)
	}
	c.expectState("", taskstate.Status_RUNNING)
	c.freeze()
	c.kill("", syscall.SIGKILL)
	c.expectExit("", 137)
}

// freeze freezes the container's cgroup without the shim.
func (c *container) freeze() {
	c.t.Helper()
	path, value := "/sys/fs/cgroup"+testenv.CgroupParent+"/"+c.ID+"/cgroup.freeze", "1"
	if _, err := os.Stat(path); err != nil {
		path, value = "/sys/fs/cgroup/freezer"+testenv.CgroupParent+"/"+c.ID+"/freezer.state", "FROZEN"
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		c.t.Fatal(err)
	}
}

// A shim that is killed while a client holds up the output has written the exit status down already.
func TestExitStatusIsWrittenBeforeTheOutputIsDelivered(t *testing.T) {
	c := newContainer(t, "sh", "-c", "head -c 1000000 /dev/zero & exit 35")
	path, uri := c.streamURI("io.sock", nil)
	c.create(streams{stdout: uri})
	attach(t, path) // and never read
	c.run("")
	awaitFile(t, filepath.Join(c.Bundle, "exit.json"))
	c.killShim()
	if response := c.deleteVerb(); response.ExitStatus != 35 {
		t.Errorf("delete answered %v", response)
	}
}

func TestRuntimeIsRunInTheBundle(t *testing.T) {
	c := newContainer(t, "true")
	c.wrapRuntime(`[ -e config.json ] || { echo "in $PWD" >&2; exit 9; }`)
	c.create(streams{})
	c.run("")
	c.expectExit("", 0)
	c.delete("")
}

// A container whose process the shim can't find is not left running.
func TestCreateWithoutAPid(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.wrapRuntime(`[ "$verb" != create ] || { $runtime "$@" || exit; while [ "$1" != --pid-file ]; do shift; done; echo none > "$2"; exit 0; }`)
	c.start()
	_, err := c.api.Create(c.ctx(), c.request(streams{}))
	expectError(t, err, codes.Unknown, `"none\n" is not one`)
	states := filepath.Join(filepath.Dir(c.Bundle), "runtime", namespace)
	if entries, err := os.ReadDir(states); err != nil || len(entries) > 0 {
		t.Errorf("left containers %v, %v", entries, err)
	}
}

func TestFailedExecStaysCreated(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.create(streams{})
	c.run("")
	c.exec("x", streams{}, "/no-such-program")
	if _, err := c.api.Start(c.ctx(), &task.StartRequest{ID: c.ID, ExecID: "x"}); err == nil {
		t.Error("a missing program was started")
	}
	c.expectState("x", taskstate.Status_CREATED)
	_, err := c.api.Start(c.ctx(), &task.StartRequest{ID: c.ID, ExecID: "x"})
	expectError(t, err, codes.FailedPrecondition, "could not be started before")
	c.wait("x") // answers
	c.delete("x")
	_, err = c.api.State(c.ctx(), &task.StateRequest{ID: c.ID, ExecID: "x"})
	expectError(t, err, codes.NotFound, `"x"`)
}

// Processes that init leaves in a pid namespace that is not the container's own end with it, so that its output ends.
func TestSurvivorsOfInitAreKilled(t *testing.T) {
	c := newContainer(t, "sh", "-c", "sleep 4711 & echo said; exit 6")
	c.Spec.Linux.Namespaces = c.Spec.Linux.Namespaces[1:] // without a pid namespace
	outPath, out := c.fifo("stdout", os.O_RDONLY)
	c.create(streams{stdout: outPath})
	c.run("")
	c.expectExit("", 6)
	if got := c.readToEnd(out); got != "said\n" {
		t.Errorf("read %q", got)
	}
	c.delete("")
}

// readToEnd reads a fifo that has been written to up to its end.
func (c *container) readToEnd(file *os.File) string {
	c.t.Helper()
	if err := file.SetDeadline(time.Now().Add(limit)); err != nil {
		c.t.Fatal(err)
	}
	data, err := io.ReadAll(file)
	if err != nil {
		c.t.Fatalf("read %q: %v", data, err)
	}
	return string(data)
}

// With a terminal a fifo ends with the process: its client need not delete the process to see the end.
func TestTerminalOutputEndsWithTheProcess(t *testing.T) {
	for _, execID := range []string{"", "x"} {
		t.Run("process "+execID, func(t *testing.T) {
			command := []string{"sh", "-c", "echo said"}
			first := []string{"sleep", "1000"}
			if execID == "" {
				first = command
			}
			c := newContainer(t, first...)
			outPath, out := c.fifo("stdout", os.O_RDONLY)
			s := streams{stdout: outPath, terminal: true}
			if execID == "" {
				c.create(s)
			} else {
				c.create(streams{})
				c.run("")
				c.exec(execID, s, command...)
			}
			c.run(execID)
			c.expectExit(execID, 0)
			if got := c.readToEnd(out); got != "said\r\n" {
				t.Errorf("read %q", got)
			}
			c.resize(execID, 80, 25) // of a client that does not know yet
			c.delete(execID)
		})
	}
}

// A process that an exec leaves behind holds the exec's output open, and lets go of it when the exec is deleted.
func TestDeletingAnExecEndsItsOutput(t *testing.T) {
	for _, test := range []struct{ script, want string }{
		{"echo said; sleep 1000 & exit 3", "said\n"},
		{"trap '' PIPE; yes said & exit 3", "said\n"},
	} {
		c := newContainer(t, "sleep", "1000")
		c.create(streams{})
		c.run("")
		outPath, out := c.fifo("stdout", os.O_RDONLY)
		c.exec("x", streams{stdout: outPath}, "sh", "-c", test.script)
		c.run("x")
		read := make(chan string, 1)
		first := make([]byte, len(test.want))
		if _, err := io.ReadFull(out, first); err != nil || string(first) != test.want {
			t.Fatalf("read %q, %v", first, err)
		}
		go func() { read <- c.readToEnd(out) }()
		c.expectExit("x", 3)
		select {
		case got := <-read:
			t.Errorf("the output has ended before: %.30q", got)
		default:
		}
		c.delete("x")
		if got := <-read; strings.Trim(got, "said\n") != "" {
			t.Errorf("read %.30q", got)
		}
	}
}

// A client that does not read its fifos keeps nobody from ending and deleting the process.
func TestClientOfFifosThatDoesNotRead(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		t.Run(fmt.Sprint("terminal: ", terminal), func(t *testing.T) {
			c := newContainer(t, "sleep", "1000")
			c.create(streams{})
			c.run("")
			outPath, _ := c.fifo("stdout", os.O_RDONLY)
			s := streams{stdout: outPath, terminal: terminal}
			if !terminal {
				s.stderr, _ = c.fifo("stderr", os.O_RDONLY)
			}
			c.exec("x", s, "sh", "-c", "yes 1>&2 & exec yes")
			pid := c.run("x")
			testenv.Until(t, usual, "the process can write no more", func() error {
				if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid)); err != nil || !strings.Contains(string(data), "write") && !strings.Contains(string(data), "wait") {
					return errors.Join(err, fmt.Errorf("it is in %q", data))
				}
				return nil
			})
			c.kill("x", syscall.SIGKILL)
			c.expectExit("x", 137)
			begun := time.Now()
			c.delete("x")
			if took := time.Since(begun); took > limit/2 {
				t.Errorf("the deletion took %v", took)
			}
			c.kill("", syscall.SIGKILL)
			c.expectExit("", 137)
			c.delete("")
		})
	}
}

// The request says whether there is a terminal, whatever the process's specification says.
func TestTerminalOfTheRequest(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.create(streams{})
	c.run("")
	for _, terminal := range []bool{true, false} {
		out, uri := c.file(fmt.Sprint("out-", terminal))
		c.Spec.Process.Terminal = !terminal
		c.specTerminal = true
		id := fmt.Sprint("x-", terminal)
		c.exec(id, streams{stdout: uri, terminal: terminal}, "sh", "-c", "[ -t 1 ] && echo yes || echo no")
		c.run(id)
		c.wait(id)
		c.delete(id)
		want := map[bool]string{true: "yes\r\n", false: "no\n"}[terminal]
		expectFile(t, out, want)
	}
}
