package shim_test

import (
	"bufio"
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
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/berthd/berth/test/testenv"
)

// counting is a script that says how often it got SIGUSR1, and ends with that on SIGTERM.
const counting = `i=0; trap 'i=$((i+1)); echo $i' USR1; trap 'exit $((i+40))' TERM; echo ready; while :; do sleep 1000 & wait $!; done`

func newCounting(t *testing.T) *container {
	t.Helper()
	testenv.NeedCRIU(t)
	c := newContainer(t, "sh", "-c", counting)
	c.Spec.Process.NoNewPrivileges = false // which criu keeps since 3.18 only
	return c
}

// said waits until a file has this content.
func said(t *testing.T, path, want string) {
	t.Helper()
	testenv.Until(t, limit, "the container says "+want, func() error {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			return fmt.Errorf("it has said %q, %w", got, errors.Join(err))
		}
		return nil
	})
}

func (c *container) checkpoint(path string, o *options.CheckpointOptions) error {
	c.t.Helper()
	any, err := anypb.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	any.TypeUrl = "containerd.runc.v1.CheckpointOptions" // as containerd writes it
	_, err = c.api.Checkpoint(c.ctx(), &task.CheckpointTaskRequest{ID: c.ID, Path: path, Options: any})
	return err
}

// restored creates the container of the images in a shim of its own. It has the root file system of the other one.
func (c *container) restored(images string, s streams) *container {
	c.t.Helper()
	there := newContainer(c.t, c.Spec.Process.Args...)
	there.Spec.Root = c.Spec.Root
	there.createFrom(images, s)
	return there
}

func (c *container) createFrom(images string, s streams) {
	c.t.Helper()
	c.Spec.Process.NoNewPrivileges, c.Spec.Process.Terminal = false, s.terminal
	c.start()
	request := c.request(s)
	request.Checkpoint = images
	response, err := c.api.Create(c.ctx(), request)
	if err != nil || response.Pid != 0 {
		c.t.Fatalf("create: %v, %v", response, err)
	}
	c.expectStatus(tasktypes.Status_CREATED)
}

func (c *container) expectStatus(want tasktypes.Status) {
	c.t.Helper()
	if got, err := c.api.State(c.ctx(), &task.StateRequest{ID: c.ID}); err != nil || got.Status != want {
		c.t.Errorf("state %v, %v, want %v", got, err, want)
	}
}

func TestCheckpoint(t *testing.T) {
	c := newCounting(t)
	out, uri := c.file("out")
	c.create(streams{stdout: uri})
	c.run("")
	said(t, out, "ready\n")
	c.kill("", syscall.SIGUSR1)
	said(t, out, "ready\n1\n")
	images, _ := c.file("images")
	if err := c.checkpoint(images, &options.CheckpointOptions{}); err != nil {
		t.Fatalf("checkpoint: %v", err)
	}
	c.expectStatus(tasktypes.Status_RUNNING)
	c.kill("", syscall.SIGUSR1)
	said(t, out, "ready\n1\n2\n")
	work, _ := c.file("work")
	last, _ := c.file("last")
	if err := c.checkpoint(last, &options.CheckpointOptions{Exit: true, WorkPath: work, CgroupsMode: "soft", EmptyNamespaces: []string{"network"}}); err != nil {
		t.Fatalf("checkpoint: %v", err)
	}
	c.expectExit("", 128+int(syscall.SIGKILL))
	if _, err := os.Stat(filepath.Join(work, "dump.log")); err != nil {
		t.Errorf("criu's log: %v", err)
	}
	expectError(t, c.checkpoint(last, &options.CheckpointOptions{}), codes.NotFound, "stopped")
	c.delete("")

	for images, count := range map[string]int{images: 1, last: 2} {
		there := c.restored(images, streams{stdout: uri})
		if pid := there.run(""); pid == 0 {
			t.Error("no pid")
		}
		there.expectStatus(tasktypes.Status_RUNNING)
		if err := os.Truncate(out, 0); err != nil {
			t.Fatal(err)
		}
		there.kill("", syscall.SIGUSR1)
		said(t, out, fmt.Sprintf("%d\n", count+1))
		there.exec("x", streams{}, "true")
		there.run("x")
		there.expectExit("x", 0)
		if response, err := there.api.Stats(there.ctx(), &task.StatsRequest{ID: there.ID}); err != nil || response.Stats == nil {
			t.Errorf("stats: %v", err)
		}
		there.kill("", syscall.SIGTERM)
		there.expectExit("", 40+count+1)
		there.delete("")
	}
}

func TestCheckpointRefusals(t *testing.T) {
	c := newCounting(t)
	c.Spec.Process.Args[2] = "sleep 1000 | nc -l -p 9999 & until grep -q :270F /proc/net/tcp /proc/net/tcp6; do :; done; " +
		"sleep 1000 | nc 127.0.0.1 9999 & until grep -q ' 01 ' /proc/net/tcp; do :; done; " + counting
	out, uri := c.file("out")
	c.create(streams{stdout: uri})
	images, _ := c.file("images")
	expectError(t, c.checkpoint(images, &options.CheckpointOptions{}), codes.FailedPrecondition, "created")
	c.run("")
	said(t, out, "ready\n")
	expectError(t, c.checkpoint("", &options.CheckpointOptions{}), codes.InvalidArgument, "path")
	expectError(t, c.checkpoint(images, &options.CheckpointOptions{CgroupsMode: "none"}), codes.Unknown, "soft, full, strict or ignore")
	expectError(t, c.checkpoint(images, &options.CheckpointOptions{}), codes.Unknown, "tcp-established")
	expectError(t, c.checkpoint(images, &options.CheckpointOptions{EmptyNamespaces: []string{"mount"}}), codes.Unknown, "network")
	expectError(t, c.checkpoint(images, &options.CheckpointOptions{ParentPath: images + "-none"}), codes.Unknown, "parent")
	_, err := c.api.Checkpoint(c.ctx(), &task.CheckpointTaskRequest{ID: c.ID, Path: images, Options: c.options()})
	expectError(t, err, codes.InvalidArgument, "CheckpointOptions")
	if err := c.checkpoint(images, &options.CheckpointOptions{OpenTcp: true, Exit: true}); err != nil {
		t.Fatal(err)
	}
	c.expectExit("", 137)
	there := c.restored(images, streams{stdout: uri}) // where the connection is allowed as it was then
	there.run("")
	there.kill("", syscall.SIGKILL)
	there.expectExit("", 137)
}

// A container that is to be restored and never is can be killed and deleted, and one whose restore fails too.
func TestNeverRestored(t *testing.T) {
	c := newCounting(t)
	c.start()
	images, _ := c.file("images")
	if err := os.Mkdir(images, 0o700); err != nil {
		t.Fatal(err)
	}
	there := c.restored(images, streams{})
	_, err := there.api.Start(there.ctx(), &task.StartRequest{ID: there.ID})
	expectError(t, err, codes.Unknown, "restore")
	there.expectStatus(tasktypes.Status_CREATED)
	there.kill("", syscall.SIGKILL)
	there.expectExit("", 137)
	there.delete("")
	c.restored(images, streams{}).delete("")
}

// Streams are those of the new client, with and without a terminal.
func TestCheckpointStreams(t *testing.T) {
	for name, terminal := range map[string]bool{"fifos": false, "terminal": true} {
		t.Run(name, func(t *testing.T) {
			c := newCounting(t)
			c.Spec.Process.Args[2] = "i=0; stty -echo -onlcr 2>/dev/null; echo ready; while read line; do i=$((i+1)); echo $line $i; done; exit $i"
			talk := func(c *container, create func(streams), line, want string) {
				t.Helper()
				inPath, in := c.fifo("stdin", os.O_WRONLY)
				outPath, out := c.fifo("stdout", os.O_RDONLY)
				create(streams{stdin: inPath, stdout: outPath, terminal: terminal})
				lines := bufio.NewScanner(out)
				expect := func(want string) {
					t.Helper()
					_ = out.SetReadDeadline(time.Now().Add(limit))
					if !lines.Scan() || lines.Text() != want {
						t.Fatalf("got %q, %v, want %q", lines.Text(), lines.Err(), want)
					}
				}
				if line == "one" {
					expect("ready")
				}
				if _, err := in.WriteString(line + "\n"); err != nil {
					t.Fatal(err)
				}
				expect(want)
			}
			talk(c, func(s streams) { c.create(s); c.run("") }, "one", "one 1")
			images, _ := c.file("images")
			if err := c.checkpoint(images, &options.CheckpointOptions{Exit: true}); err != nil {
				t.Fatal(err)
			}
			c.expectExit("", 137)
			there := newContainer(t, "never executed")
			there.Spec.Root = c.Spec.Root
			talk(there, func(s streams) { there.createFrom(images, s); there.run("") }, "two", "two 2")
		})
	}
}

// Containerd's own client writes a container into an image, and makes another one from it, with its files and memory.
func TestCheckpointUnderContainerd(t *testing.T) {
	testenv.NeedCRIU(t)
	c := startContainerd(t)
	image := testenv.BusyboxImage(t, testenv.Registry(t))
	c.mustRun("images", "pull", "--plain-http", "--snapshotter", "native", image)
	c.mustRun("run", "-d", "--runtime", "io.containerd.berth.v2", "--snapshotter", "native", "--cgroup", testenv.CgroupParent+"/web",
		image, "web", "sh", "-c", "exec >/said; "+counting)
	count := 0
	said := func(want string) {
		t.Helper()
		testenv.Until(t, limit, "the container says "+want, func() error {
			count++
			got, err := c.try("tasks", "exec", "--exec-id", fmt.Sprint("x", count), "web", "cat", "/said")
			if err == nil && got != want {
				err = errors.New(got)
			}
			return err
		})
	}
	said("ready\n")
	c.mustRun("tasks", "kill", "-s", "USR1", "web")
	said("ready\n1\n")
	c.mustRun("containers", "checkpoint", "--rw", "--image", "--task", "web", "test/checkpoint:one")
	c.mustRun("tasks", "kill", "-s", "USR1", "web") // it goes on
	said("ready\n1\n2\n")
	c.mustRun("tasks", "rm", "-f", "web")
	c.mustRun("containers", "rm", "web")

	c.mustRun("containers", "restore", "--rw", "--live", "web", "test/checkpoint:one")
	said("ready\n1\n")
	c.mustRun("tasks", "kill", "-s", "USR1", "web")
	said("ready\n1\n2\n")
	c.mustRun("tasks", "kill", "-s", "TERM", "web")
	testenv.Until(t, limit, "the container has ended", func() error {
		got, err := c.try("tasks", "ls")
		if err == nil && !strings.Contains(got, "STOPPED") {
			err = errors.New(got)
		}
		return err
	})
	if got := c.mustRun("tasks", "rm", "web"); !strings.Contains(got, "exit code 42") {
		t.Errorf("the container's status: %q, want 42", got)
	}
	c.mustRun("containers", "rm", "web")
	c.expectNoShim()
}
