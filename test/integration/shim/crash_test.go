package shim_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/berthd/berth/test/testenv"
	"google.golang.org/protobuf/types/known/anypb"
)

func optionsFor(t testing.TB, binary string) *anypb.Any {
	t.Helper()
	any, err := anypb.New(&options.Options{BinaryName: binary})
	if err != nil {
		t.Fatal(err)
	}
	return any
}

func limits(memory int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}}
}

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", filepath.Base(path), err)
	}
}

func (c *container) deleteVerb() *task.DeleteResponse {
	c.t.Helper()
	output, err := c.verb("delete")
	if err != nil {
		c.t.Fatal(err)
	}
	response := &task.DeleteResponse{}
	if err := proto.Unmarshal(output, response); err != nil {
		c.t.Fatal(err)
	}
	return response
}

func TestDeleteAfterTheShimWasKilled(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	pid := c.create(streams{})
	c.run("")
	c.killShim()
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("the container died with its shim: %v", err)
	}
	response := c.deleteVerb()
	if response.ExitStatus != 137 || int(response.Pid) != pid {
		t.Errorf("delete answered %v", response)
	}
	if !zombie(pid) {
		t.Errorf("process %d of the container still runs", pid)
	}
	left, err := filepath.Glob(c.Bundle + "/shim.*")
	if err != nil || len(left) > 0 {
		t.Errorf("delete left %q, %v", left, err)
	}
	c.deleteVerb() // again, with nothing to do
}

// Files that a power failure has cut off do not keep a container from being removed.
func TestDeleteWithDamagedFiles(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	pid := c.create(streams{})
	c.run("")
	c.killShim()
	runtime, err := os.ReadFile(filepath.Join(c.Bundle, "runtime.json"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(c.Bundle, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"shim.pid", "runtime.json", "exit.json"} {
		write(name, nil)
	}
	if response := c.deleteVerb(); response.ExitStatus != 137 || int(response.Pid) != pid {
		t.Errorf("delete answered %v", response)
	}
	testenv.Until(t, usual, "the container's process has ended", func() error {
		if !zombie(pid) {
			return fmt.Errorf("process %d runs", pid)
		}
		return nil
	})
	write("runtime.json", runtime) // whole again: what is left is removed by the runtime that it names
	c.deleteVerb()
}

func TestExitStatusSurvivesTheShim(t *testing.T) {
	c := newContainer(t, "sh", "-c", "exit 33")
	pid := c.create(streams{})
	c.run("")
	c.expectExit("", 33)
	c.killShim()
	response := c.deleteVerb()
	if response.ExitStatus != 33 || int(response.Pid) != pid {
		t.Errorf("delete answered %v", response)
	}
}

func TestDeleteBeforeThereIsAContainer(t *testing.T) {
	c := newContainer(t, "true")
	c.deleteVerb()
	c.start()
	c.killShim()
	c.deleteVerb()
}

func TestDeleteStopsAShimThatWasGivenUp(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	pid := c.create(streams{})
	c.run("")
	if err := syscall.Kill(c.pid, syscall.SIGSTOP); err != nil { // as if it hung
		t.Fatal(err)
	}
	c.deleteVerb()
	if !zombie(pid) || !zombie(c.pid) {
		t.Errorf("still there: container %v, shim %v", !zombie(pid), !zombie(c.pid))
	}
}

// A shim that nobody can reach any more is found by its pid.
func TestDeleteStopsAShimWithoutASocket(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	pid := c.create(streams{})
	c.run("")
	if err := os.Remove(filepath.Join(c.Bundle, "shim.sock")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.verb("start"); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("second start: %v", err)
	}
	c.deleteVerb()
	if !zombie(pid) || !zombie(c.pid) {
		t.Errorf("still there: container %v, shim %v", !zombie(pid), !zombie(c.pid))
	}
}

// A shim without a container, whose manager never came, ends by itself, and takes its socket with it.
func TestShimThatNobodyKnowsEnds(t *testing.T) {
	c := newContainer(t, "true")
	if _, err := c.verb("start"); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, 2*usual, "the shim has ended", func() error { return noneOf(t, c.Bundle) })
	left, err := filepath.Glob(c.Bundle + "/shim.*")
	if err != nil || len(left) != 1 { // shim.log
		t.Errorf("left %q, %v", left, err)
	}
}

// A call of the runtime that a killed shim has left, and that does not end, is killed by delete. The command line of a
// process of the container, which may say what it likes, is nothing to it.
func TestDeleteAmongCallsThatDoNotEnd(t *testing.T) {
	c := newContainer(t)
	call := filepath.Join(c.Bundle, "shim.77.log")
	c.Spec.Process.Args = []string{"sh", "-c", "trap '' TERM; while :; do sleep 1; done", "--log", call, "x"}
	began, _ := c.file("began")
	c.wrapRuntime(`[ "$verb" != exec ] || { echo > ` + began + `; kill -STOP $$; }`)
	pid := c.create(streams{})
	c.run("")
	if err := os.WriteFile(call, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.exec("x", streams{}, "true")
	ctx := c.ctx()
	go func() { _, _ = c.api.Start(ctx, &task.StartRequest{ID: c.ID, ExecID: "x"}) }()
	awaitFile(t, began)
	c.killShim()
	if response := c.deleteVerb(); response.ExitStatus != 137 || !zombie(pid) {
		t.Errorf("delete answered %v; the container is gone: %v", response, zombie(pid))
	}
	c.expectNothingLeft()
}

func TestTheManagersDeathDisturbsNobody(t *testing.T) {
	c := newContainer(t, "sh", "-c", "read line; echo got $line")
	out, outURI := c.file("out")
	path, uri := c.streamURI("io.sock", nil)
	c.create(streams{stdin: uri, stdout: outURI})
	c.run("")
	if err := c.client.Close(); err != nil {
		t.Fatal(err)
	}
	attach(t, path).send("x\n")
	c.connect("unix://" + c.Bundle + "/shim.sock")
	c.expectExit("", 0)
	expectFile(t, out, "got x\n")
}

// The shim is killed before and after each call of the runtime that a container's life has, and when the container has
// ended. The call goes on while delete is at work, or is over. Whatever the shim was doing, delete leaves nothing.
func TestKilledAtEachInstant(t *testing.T) {
	for _, verb := range []string{"create", "start", "exec", "kill", "delete"} {
		for _, when := range []string{"before", "after"} {
			t.Run(when+" "+verb, func(t *testing.T) {
				c := newContainer(t, "sleep", "1000")
				began, goOn := c.holdRuntime(verb, when)
				c.start()
				lived := make(chan struct{})
				go func() {
					defer close(lived)
					c.live()
				}()
				awaitFile(t, began)
				c.killShim()
				<-lived
				// By then delete is at work, most of the time. It must not matter.
				time.AfterFunc(50*time.Millisecond, func() { _ = os.WriteFile(goOn, nil, 0o600) })
				if response := c.deleteVerb(); response.ExitStatus != 137 {
					t.Errorf("delete answered %v", response)
				}
				c.expectNothingLeft()
			})
		}
	}
	t.Run("after the exit", func(t *testing.T) {
		c := newContainer(t, "sh", "-c", "exit 4")
		c.create(streams{})
		c.run("")
		awaitFile(t, filepath.Join(c.Bundle, "exit.json"))
		c.killShim()
		if response := c.deleteVerb(); response.ExitStatus != 4 {
			t.Errorf("delete answered %v", response)
		}
		c.expectNothingLeft()
	})
}

// holdRuntime holds a command of the runtime before or after its work. The file began is there then; it goes on when there
// is a file goOn.
func (c *container) holdRuntime(verb, when string) (began, goOn string) {
	began, _ = c.file("began")
	goOn, _ = c.file("go-on")
	work, end := "", `exec $runtime "$@"`
	if when == "after" {
		work, end = `$runtime "$@"; status=$?`, "exit $status"
	}
	c.wrapRuntime(fmt.Sprintf(`if [ "$verb" = %s ] && [ ! -e %s ]; then
	%s
	echo > %s
	while [ ! -e %s ]; do sleep 0.01; done
	%s
fi`, verb, goOn, work, began, goOn, end))
	return began, goOn
}

// live has the shim do everything that is in a container's life, until it does not answer.
func (c *container) live() {
	ctx := c.ctx()
	for _, step := range []func() error{
		func() error { _, err := c.api.Create(ctx, c.request(streams{})); return err },
		func() error { _, err := c.api.Start(ctx, &task.StartRequest{ID: c.ID}); return err },
		func() error { return c.tryExec("x", streams{}, "sleep", "1000") },
		func() error { _, err := c.api.Start(ctx, &task.StartRequest{ID: c.ID, ExecID: "x"}); return err },
		func() error { _, err := c.api.Kill(ctx, &task.KillRequest{ID: c.ID, Signal: 9}); return err },
		func() error { _, err := c.api.Wait(ctx, &task.WaitRequest{ID: c.ID}); return err },
		func() error { _, err := c.api.Delete(ctx, &task.DeleteRequest{ID: c.ID}); return err },
	} {
		if step() != nil {
			return
		}
	}
}

// A bundle on a full file system keeps nobody from ending and deleting the container, with its shim or behind it.
func TestEndOnAFullDisk(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("shim killed: ", killed), func(t *testing.T) {
			c := newContainer(t, "sleep", "1000")
			if err := syscall.Mount("tmpfs", c.Bundle, "tmpfs", 0, "nr_inodes=200"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(c.Bundle, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			t.Cleanup(c.remove)
			c.create(streams{})
			c.run("")
			var err error
			for i := 0; err == nil && i < 1000; i++ {
				err = os.WriteFile(filepath.Join(c.Bundle, fmt.Sprint("filler-", i)), nil, 0o600)
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("the file system is not full: %v", err)
			}
			c.exec("x", streams{}, "true")
			if _, err := c.api.Start(c.ctx(), &task.StartRequest{ID: c.ID, ExecID: "x"}); err == nil || !strings.Contains(err.Error(), "no space left") {
				t.Errorf("start of an exec: %v", err)
			}
			if killed {
				c.killShim()
				c.deleteVerb()
			} else {
				c.kill("", syscall.SIGKILL)
				c.expectExit("", 137)
				c.delete("")
			}
		})
	}
}

// expectNothingLeft looks for processes, cgroups, mounts and files of the container.
func (c *container) expectNothingLeft() {
	c.t.Helper()
	base := filepath.Dir(c.Bundle)
	for _, p := range testenv.Processes(c.t, base+"/") {
		c.t.Errorf("left %v", p)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*" + testenv.CgroupParent + "/" + c.ID, "/sys/fs/cgroup" + testenv.CgroupParent + "/" + c.ID, base + "/runtime/*/*"} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			c.t.Errorf("left %q, %v", left, err)
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), base+"/") {
		c.t.Errorf("left a mount, %v", err)
	}
}
