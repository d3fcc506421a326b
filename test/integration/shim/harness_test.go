// Package shim_test drives containerd-shim-berth-v2 as managers do: start and delete by its command line, the task API
// over ttrpc, the process's streams over fifos and the stream socket.
package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/berthd/berth/internal/unixsocket"
	"github.com/berthd/berth/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	shimName  = "containerd-shim-berth-v2"
	namespace = "berth-test"
)

// limit bounds everything that a test waits for.
var limit = testenv.Patience(usual)

// usual is the limit on a machine that is not emulated.
const usual = 20 * time.Second

// ociRuntime is the runtime under the shim: ours, or what BERTH_TEST_RUNTIME names.
func ociRuntime(t testing.TB) string {
	t.Helper()
	if name := os.Getenv("BERTH_TEST_RUNTIME"); name != "" {
		return testenv.Peer(t, name)
	}
	return testenv.Binary(t, "berth-runtime")
}

// container is a bundle with its shim.
type container struct {
	t      testing.TB
	ID     string
	Bundle string
	Spec   *specs.Spec
	Env    []string // added to the environment of start
	Flags  []string // added to the command line

	specTerminal bool // exec takes the terminal of the specification from Spec, not from the streams

	program string
	runtime string
	pid     int // of the shim
	client  *ttrpc.Client
	api     task.TTRPCTaskService
}

// newContainer makes a bundle whose process is the command. Its shim is not started yet. Whatever the test leaves of
// it is removed in the end.
func newContainer(t testing.TB, command ...string) *container {
	t.Helper()
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	c := &container{
		t: t, ID: "shim-" + strings.ReplaceAll(filepath.Base(dir), ".", ""), Bundle: filepath.Join(dir, "bundle"),
		program: testenv.Binary(t, shimName), runtime: ociRuntime(t),
	}
	if err := os.Mkdir(c.Bundle, 0o711); err != nil {
		t.Fatal(err)
	}
	c.Spec = newSpec(c.ID, testenv.BusyboxRootfs(t), command)
	t.Cleanup(c.remove)
	return c
}

func newSpec(id, rootfs string, command []string) *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: rootfs},
		Process: &specs.Process{
			Args: command, Cwd: "/", Env: []string{"PATH=/bin:/usr/bin", "TERM=xterm"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{
				Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"},
			},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: testenv.CgroupParent + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
			},
		},
	}
}

// start writes the bundle and starts the shim.
func (c *container) start() {
	c.t.Helper()
	data, err := json.Marshal(c.Spec)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Bundle, "config.json"), data, 0o600); err != nil {
		c.t.Fatal(err)
	}
	output, err := c.verb("start", "MAX_SHIM_VERSION=3")
	if err != nil {
		c.t.Fatal(err)
	}
	var answer struct {
		Version           int
		Address, Protocol string
	}
	if err := json.Unmarshal(output, &answer); err != nil {
		c.t.Fatalf("cannot read the answer %q: %v", output, err)
	}
	if answer.Version != 3 || answer.Protocol != "ttrpc" {
		c.t.Fatalf("start answered %s", output)
	}
	c.connect(answer.Address)
}

func (c *container) connect(address string) {
	c.t.Helper()
	conn, err := unixsocket.Dial(strings.TrimPrefix(address, "unix://"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.client = ttrpc.NewClient(conn)
	c.t.Cleanup(func() { _ = c.client.Close() })
	c.api = task.NewTTRPCTaskClient(c.client)
	response, err := c.api.Connect(c.ctx(), &task.ConnectRequest{ID: c.ID})
	if err != nil {
		c.t.Fatal(err)
	}
	c.pid = int(response.ShimPid)
}

// verb runs a command of the shim and returns what it printed. The error is what it said on stderr.
func (c *container) verb(verb string, env ...string) ([]byte, error) {
	c.t.Helper()
	cmd := c.command(verb, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", shimName, verb, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// command is a command of the shim as a manager starts it.
func (c *container) command(verb string, env ...string) *exec.Cmd {
	args := append([]string{"-namespace", namespace, "-id", c.ID, "-bundle", c.Bundle, "-address", c.Bundle + "/none.sock"}, c.Flags...)
	cmd := exec.CommandContext(c.ctx(), c.program, append(args, verb)...)
	cmd.Env = append(append(os.Environ(), c.Env...), env...)
	cmd.Dir = c.Bundle
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// remove has the shim clean up: what a manager does that has lost one.
func (c *container) remove() {
	if c.t.Failed() {
		if said, err := os.ReadFile(filepath.Join(c.Bundle, "shim.log")); err == nil && len(said) > 0 {
			c.t.Logf("the shim said:\n%s", said)
		}
	}
	if _, err := c.verb("delete"); err != nil {
		c.t.Errorf("cannot clean up: %v", err)
	}
	if c.pid != 0 && !zombie(c.pid) {
		c.t.Errorf("the shim is still there: process %d", c.pid)
	}
}

// killShim is kill -9 of the shim, and waits until it is gone.
func (c *container) killShim() {
	c.t.Helper()
	if err := syscall.Kill(c.pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	testenv.Until(c.t, usual, "the killed shim is gone", func() error {
		if !zombie(c.pid) {
			return errors.New("it is not")
		}
		return nil
	})
	_ = c.client.Close()
}

// zombie reports whether a process has ended, be it reaped or not.
func zombie(pid int) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err != nil
}

// ctx ends when a test has waited too long.
func (c *container) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	c.t.Cleanup(cancel)
	return ctx
}

func (c *container) options() *anypb.Any {
	any, err := anypb.New(&options.Options{BinaryName: c.runtime, Root: filepath.Join(filepath.Dir(c.Bundle), "runtime")})
	if err != nil {
		c.t.Fatal(err)
	}
	any.TypeUrl = "containerd.runc.v1.Options" // as containerd writes it
	return any
}

// streams says where the streams of a process go.
type streams struct {
	stdin, stdout, stderr string
	terminal              bool
}

// create starts the shim and has it create the container.
func (c *container) create(s streams) int {
	c.t.Helper()
	c.Spec.Process.Terminal = s.terminal
	c.start()
	response, err := c.api.Create(c.ctx(), c.request(s))
	if err != nil {
		c.t.Fatalf("cannot create: %v", err)
	}
	return int(response.Pid)
}

func (c *container) request(s streams) *task.CreateTaskRequest {
	return &task.CreateTaskRequest{
		ID: c.ID, Bundle: c.Bundle, Options: c.options(),
		Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Terminal: s.terminal,
	}
}

// run starts the created container, or the exec with this id.
func (c *container) run(execID string) int {
	c.t.Helper()
	response, err := c.api.Start(c.ctx(), &task.StartRequest{ID: c.ID, ExecID: execID})
	if err != nil {
		c.t.Fatalf("cannot start: %v", err)
	}
	return int(response.Pid)
}

// wait returns the exit status.
func (c *container) wait(execID string) int {
	c.t.Helper()
	response, err := c.api.Wait(c.ctx(), &task.WaitRequest{ID: c.ID, ExecID: execID})
	if err != nil {
		c.t.Fatalf("cannot wait: %v", err)
	}
	if age := time.Since(response.ExitedAt.AsTime()); age < 0 || age > limit {
		c.t.Errorf("it exited at %v", response.ExitedAt.AsTime())
	}
	return int(response.ExitStatus)
}

// expectExit waits and compares.
func (c *container) expectExit(execID string, want int) {
	c.t.Helper()
	if got := c.wait(execID); got != want {
		c.t.Errorf("exit status %d, want %d", got, want)
	}
}

// kill sends a signal to a process.
func (c *container) kill(execID string, signal syscall.Signal) {
	c.t.Helper()
	if _, err := c.api.Kill(c.ctx(), &task.KillRequest{ID: c.ID, ExecID: execID, Signal: uint32(signal)}); err != nil {
		c.t.Fatalf("cannot kill: %v", err)
	}
}

// delete forgets an exited process.
func (c *container) delete(execID string) *task.DeleteResponse {
	c.t.Helper()
	response, err := c.api.Delete(c.ctx(), &task.DeleteRequest{ID: c.ID, ExecID: execID})
	if err != nil {
		c.t.Fatalf("cannot delete: %v", err)
	}
	return response
}

// shutdown ends the shim, if it has no container.
func (c *container) shutdown() {
	c.t.Helper()
	if _, err := c.api.Shutdown(c.ctx(), &task.ShutdownRequest{ID: c.ID}); err != nil {
		c.t.Fatalf("cannot shut down: %v", err)
	}
}

// exec defines another process with the container's environment.
func (c *container) exec(execID string, s streams, command ...string) {
	c.t.Helper()
	if err := c.tryExec(execID, s, command...); err != nil {
		c.t.Fatalf("cannot exec: %v", err)
	}
}

func (c *container) tryExec(execID string, s streams, command ...string) error {
	process := *c.Spec.Process
	process.Args = command
	if !c.specTerminal {
		process.Terminal = s.terminal
	}
	data, err := json.Marshal(&process)
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = c.api.Exec(c.ctx(), &task.ExecProcessRequest{
		ID: c.ID, ExecID: execID, Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Terminal: s.terminal,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: data},
	})
	return err
}

// file returns the path of a file beside the bundle, and its file:// URI.
func (c *container) file(name string) (path, uri string) {
	path = filepath.Join(filepath.Dir(c.Bundle), name)
	return path, "file://" + path
}

// expectFile compares the content of a file.
func expectFile(t testing.TB, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s holds %q, want %q", filepath.Base(path), got, want)
	}
}

// expectError checks the class and the sentence of a refusal.
func expectError(t testing.TB, err error, code codes.Code, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %v with %q", code, words)
		return
	}
	if got := status.Code(err); got != code {
		t.Errorf("error of class %v, want %v: %v", got, code, err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
}
