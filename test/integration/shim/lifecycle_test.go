package shim_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	taskstate "github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/berthd/berth/test/testenv"
)

func sscan(line string, number *int) (int, error) { return fmt.Sscanf(line, "line %d", number) }

func (c *container) expectState(execID string, want taskstate.Status) *task.StateResponse {
	c.t.Helper()
	response, err := c.api.State(c.ctx(), &task.StateRequest{ID: c.ID, ExecID: execID})
	if err != nil {
		c.t.Fatal(err)
	}
	if response.Status != want {
		c.t.Errorf("it is %v, want %v", response.Status, want)
	}
	return response
}

func TestLifeOfAContainer(t *testing.T) {
	c := newContainer(t, "sh", "-c", "echo out; echo err >&2; exit 42")
	out, outURI := c.file("out")
	err, errURI := c.file("err")
	pid := c.create(streams{stdout: outURI, stderr: errURI})
	if got := c.expectState("", taskstate.Status_CREATED); int(got.Pid) != pid || got.Bundle != c.Bundle {
		t.Errorf("state %v", got)
	}
	if started := c.run(""); started != pid {
		t.Errorf("pid %d became %d", pid, started)
	}
	c.expectExit("", 42)
	c.expectExit("", 42) // whoever asks later gets the same answer
	if got := c.expectState("", taskstate.Status_STOPPED); got.ExitStatus != 42 {
		t.Errorf("state %v", got)
	}
	expectFile(t, out, "out\n")
	expectFile(t, err, "err\n")
	if deleted := c.delete(""); deleted.ExitStatus != 42 || int(deleted.Pid) != pid {
		t.Errorf("delete answered %v", deleted)
	}
	c.shutdown()
	testenv.Until(t, usual, "the shim is gone", func() error {
		if !zombie(c.pid) {
			return errors.New("it is there")
		}
		return nil
	})
	left, globErr := filepath.Glob(c.Bundle + "/shim*")
	if globErr != nil || !slices.Equal(left, []string{c.Bundle + "/shim.log"}) {
		t.Errorf("the shim left %q, %v", left, globErr)
	}
}

func TestExitStatusOfASignal(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.create(streams{})
	c.run("")
	c.kill("", syscall.SIGKILL)
	c.expectExit("", 128+9)
	_, err := c.api.Kill(c.ctx(), &task.KillRequest{ID: c.ID, Signal: 15})
	expectError(t, err, codes.NotFound, "stopped")
}

func TestSignalsReachTheProcess(t *testing.T) {
	c := newContainer(t, "sh", "-c", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.02; done")
	path, uri := c.streamURI("io.sock", nil)
	c.create(streams{stdout: uri})
	a := attach(t, path)
	c.run("")
	a.until("ready")
	c.kill("", syscall.SIGUSR1)
	c.expectExit("", 7)
}

func TestKillAll(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.create(streams{})
	c.run("")
	c.exec("other", streams{}, "sleep", "1000")
	c.run("other")
	if _, err := c.api.Kill(c.ctx(), &task.KillRequest{ID: c.ID, Signal: 9, All: true}); err != nil {
		t.Fatal(err)
	}
	c.expectExit("other", 137)
	c.expectExit("", 137)
}

func TestDeleteOfAContainerThatNeverStarted(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.create(streams{})
	c.delete("")
	_, err := c.api.State(c.ctx(), &task.StateRequest{ID: c.ID})
	expectError(t, err, codes.NotFound, c.ID)
}

func TestRootfsIsMountedAndUnmounted(t *testing.T) {
	c := newContainer(t, "sh", "-c", "echo changed > /file")
	base := filepath.Dir(c.Bundle)
	for _, dir := range []string{"upper", "work", "bundle/rootfs"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lower := c.Spec.Root.Path
	c.Spec.Root.Path = "rootfs"
	c.start()
	request := c.request(streams{})
	request.Rootfs = []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + lower, "upperdir=" + filepath.Join(base, "upper"), "workdir=" + filepath.Join(base, "work"),
	}}}
	if _, err := c.api.Create(c.ctx(), request); err != nil {
		t.Fatal(err)
	}
	c.run("")
	c.expectExit("", 0)
	c.delete("")
	expectFile(t, filepath.Join(base, "upper", "file"), "changed\n")
	if left, err := os.ReadDir(filepath.Join(c.Bundle, "rootfs")); err != nil || len(left) > 0 {
		t.Errorf("rootfs still holds %v, %v", left, err)
	}
}

func TestExec(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.create(streams{})
	c.run("")
	out, uri := c.file("out")
	c.exec("one", streams{stdout: uri}, "sh", "-c", "echo from exec $$; exit 5")
	c.expectState("one", taskstate.Status_CREATED)
	if err := c.tryExec("one", streams{}, "true"); err == nil {
		t.Error("an exec id can be used twice")
	}
	if pid := c.run("one"); pid <= 1 {
		t.Errorf("pid %d", pid)
	}
	c.expectExit("one", 5)
	if data, err := os.ReadFile(out); err != nil || !strings.HasPrefix(string(data), "from exec ") {
		t.Errorf("output %q, %v", data, err)
	}
	if deleted := c.delete("one"); deleted.ExitStatus != 5 {
		t.Errorf("delete answered %v", deleted)
	}
	_, err := c.api.Wait(c.ctx(), &task.WaitRequest{ID: c.ID, ExecID: "one"})
	expectError(t, err, codes.NotFound, "one")

	c.exec("two", streams{}, "sleep", "1000")
	c.run("two")
	c.kill("two", syscall.SIGTERM)
	c.expectExit("two", 143)
	c.expectState("", taskstate.Status_RUNNING)
}

func TestExecOfAMissingCommand(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.create(streams{})
	c.run("")
	for _, test := range []struct{ command, says string }{
		{"/nothing-here", "no such file or directory"},
		{"nothing-here", "executable file not found in $PATH"},
		{"/etc/passwd", "permission denied"},
	} {
		c.exec(test.command[1:], streams{}, test.command)
		_, err := c.api.Start(c.ctx(), &task.StartRequest{ID: c.ID, ExecID: test.command[1:]})
		expectError(t, err, codes.Unknown, test.says, test.command)
		c.delete(test.command[1:])
	}
	c.expectState("", taskstate.Status_RUNNING)
}

func TestCreateOfAMissingCommand(t *testing.T) {
	c := newContainer(t, "nothing-here")
	c.start()
	_, err := c.api.Create(c.ctx(), c.request(streams{}))
	if err == nil { // the runtime may see it only when it starts
		_, err = c.api.Start(c.ctx(), &task.StartRequest{ID: c.ID})
	}
	expectError(t, err, codes.Unknown, "nothing-here", "executable file not found in $PATH")
}

func TestPauseAndResume(t *testing.T) {
	c := newContainer(t, "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.02; done")
	path, uri := c.streamURI("io.sock", nil)
	c.create(streams{stdout: uri})
	a := attach(t, path)
	c.run("")
	a.until("ready")
	if _, err := c.api.Pause(c.ctx(), &task.PauseRequest{ID: c.ID}); err != nil {
		t.Fatal(err)
	}
	c.expectState("", taskstate.Status_PAUSED)
	c.kill("", syscall.SIGTERM) // stays pending
	if _, err := c.api.Resume(c.ctx(), &task.ResumeRequest{ID: c.ID}); err != nil {
		t.Fatal(err)
	}
	c.expectExit("", 9)
}

func TestKillOfAPausedContainer(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.create(streams{})
	c.run("")
	if _, err := c.api.Pause(c.ctx(), &task.PauseRequest{ID: c.ID}); err != nil {
		t.Fatal(err)
	}
	c.kill("", syscall.SIGKILL)
	c.expectExit("", 137)
	c.delete("")
}

func TestPids(t *testing.T) {
	c := newContainer(t, "sh", "-c", "sleep 1000 & echo ready; wait")
	path, uri := c.streamURI("io.sock", nil)
	pid := c.create(streams{stdout: uri})
	a := attach(t, path)
	c.run("")
	a.until("ready")
	response, err := c.api.Pids(c.ctx(), &task.PidsRequest{ID: c.ID})
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, p := range response.Processes {
		pids = append(pids, int(p.Pid))
	}
	if len(pids) != 2 || !slices.Contains(pids, pid) {
		t.Errorf("pids %v, the first process is %d", pids, pid)
	}
}

func TestStats(t *testing.T) {
	c := newContainer(t, "sh", "-c", "head -c 1000000 /dev/zero | tail -c 1 >/dev/null; echo ready; sleep 1000")
	memory := int64(64 << 20)
	c.Spec.Linux.Resources = limits(memory)
	path, uri := c.streamURI("io.sock", nil)
	c.create(streams{stdout: uri})
	a := attach(t, path)
	c.run("")
	a.until("ready")
	if limit, pids, cpu := c.stats(); limit != uint64(memory) || pids != 1 || cpu == 0 {
		t.Errorf("memory limit %d, %d processes, %d of CPU", limit, pids, cpu)
	}
	data, err := json.Marshal(limits(96 << 20))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.api.Update(c.ctx(), &task.UpdateTaskRequest{ID: c.ID, Resources: &anypb.Any{
		TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: data,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if limit, _, _ := c.stats(); limit != 96<<20 {
		t.Errorf("memory limit %d after the update", limit)
	}
}

// stats returns what both cgroup versions tell.
func (c *container) stats() (memoryLimit, pids, cpu uint64) {
	c.t.Helper()
	response, err := c.api.Stats(c.ctx(), &task.StatsRequest{ID: c.ID})
	if err != nil {
		c.t.Fatal(err)
	}
	var v1 stats1.Metrics
	var v2 stats2.Metrics
	switch url := response.Stats.TypeUrl; url {
	case "io.containerd.cgroups.v1.Metrics":
		if err := proto.Unmarshal(response.Stats.Value, &v1); err != nil {
			c.t.Fatal(err)
		}
		return v1.GetMemory().GetUsage().GetLimit(), v1.GetPids().GetCurrent(), v1.GetCPU().GetUsage().GetTotal()
	case "io.containerd.cgroups.v2.Metrics":
		if err := proto.Unmarshal(response.Stats.Value, &v2); err != nil {
			c.t.Fatal(err)
		}
		return v2.GetMemory().GetUsageLimit(), v2.GetPids().GetCurrent(), v2.GetCPU().GetUsageUsec()
	default:
		c.t.Fatalf("statistics of type %q", url)
		return 0, 0, 0
	}
}

func TestConnect(t *testing.T) {
	c := newContainer(t, "true")
	pid := c.create(streams{})
	response, err := c.api.Connect(c.ctx(), &task.ConnectRequest{ID: c.ID})
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", response.ShimPid))
	if err != nil || exe != c.program {
		t.Errorf("process %d runs %q, %v", response.ShimPid, exe, err)
	}
	if int(response.TaskPid) != pid {
		t.Errorf("task pid %d, want %d", response.TaskPid, pid)
	}
}

func TestTheRuntimeCannotBeWrittenThroughItsProcess(t *testing.T) {
	c := newContainer(t, "true")
	pid := c.create(streams{}) // which still executes the runtime
	exe := fmt.Sprintf("/proc/%d/exe", pid)
	var stat syscall.Statfs_t
	if err := syscall.Statfs(exe, &stat); err != nil {
		t.Fatal(err)
	}
	const readOnly = 1 // ST_RDONLY
	sealed := strings.HasPrefix(link(t, exe), "/memfd:")
	if stat.Flags&readOnly == 0 && !sealed {
		t.Errorf("%s is %s, on a writable mount", exe, link(t, exe))
	}
}

func link(t testing.TB, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestShutdownSparesAContainer(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.create(streams{})
	c.run("")
	c.shutdown()
	c.expectState("", taskstate.Status_RUNNING)
}

func TestOldManagersGetABareAddressAndVersion2(t *testing.T) {
	c := newContainer(t, "sh", "-c", "exit 6")
	c.start()
	client := taskv2.NewTTRPCTaskClient(c.client)
	_, err := client.Create(c.ctx(), &taskv2.CreateTaskRequest{ID: c.ID, Bundle: c.Bundle, Options: c.options()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Start(c.ctx(), &taskv2.StartRequest{ID: c.ID}); err != nil {
		t.Fatal(err)
	}
	response, err := client.Wait(c.ctx(), &taskv2.WaitRequest{ID: c.ID})
	if err != nil || response.ExitStatus != 6 {
		t.Errorf("wait: %v, %v", response, err)
	}

	other := newContainer(t, "true")
	address, err := other.verb("start")
	if err != nil {
		t.Fatal(err)
	}
	if want := "unix://" + other.Bundle + "/shim.sock"; string(address) != want {
		t.Errorf("start printed %q, want %q", address, want)
	}
	other.connect(string(address))
	if info, err := os.Stat(other.Bundle + "/shim.sock"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
}

func TestBadInput(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.start()
	create := func(change func(*task.CreateTaskRequest)) error {
		request := c.request(streams{})
		change(request)
		_, err := c.api.Create(c.ctx(), request)
		return err
	}
	for name, test := range map[string]struct {
		change func(*task.CreateTaskRequest)
		code   codes.Code
		says   string
	}{
		"another id":           {func(r *task.CreateTaskRequest) { r.ID = "other" }, codes.InvalidArgument, `"other"`},
		"relative stream":      {func(r *task.CreateTaskRequest) { r.Stdout = "stream://a/b" }, codes.InvalidArgument, "stream://a/b"},
		"bad size":             {func(r *task.CreateTaskRequest) { r.Stdout = "stream://" + c.Bundle + "/x?log=/x&max-size=1k" }, codes.InvalidArgument, `"1k"`},
		"unknown scheme":       {func(r *task.CreateTaskRequest) { r.Stdout = "binary:///bin/true" }, codes.Unimplemented, "binary"},
		"missing fifo":         {func(r *task.CreateTaskRequest) { r.Stdout = c.Bundle + "/no-fifo" }, codes.Unknown, "no-fifo"},
		"checkpoint":           {func(r *task.CreateTaskRequest) { r.Checkpoint = "/no-such" }, codes.NotFound, "checkpoint"},
		"unknown options":      {func(r *task.CreateTaskRequest) { r.Options = &anypb.Any{TypeUrl: "some.Options"} }, codes.InvalidArgument, "some.Options"},
		"bad rootfs":           {func(r *task.CreateTaskRequest) { r.Rootfs = []*types.Mount{{Type: "nofs", Source: "x"}} }, codes.Unknown, `"nofs"`},
		"garbage in options":   {func(r *task.CreateTaskRequest) { r.Options.Value = []byte("\xff\xff") }, codes.InvalidArgument, "options"},
		"missing runtime":      {func(r *task.CreateTaskRequest) { r.Options = optionsFor(t, "/no/runtime") }, codes.NotFound, "/no/runtime"},
		"unknown runtime name": {func(r *task.CreateTaskRequest) { r.Options = optionsFor(t, "no-runtime") }, codes.NotFound, "no-runtime"},
	} {
		t.Run(name, func(t *testing.T) { expectError(t, create(test.change), test.code, test.says) })
	}
	// None of them leaves anything in the way of a good one.
	if _, err := c.api.Create(c.ctx(), c.request(streams{})); err != nil {
		t.Fatal(err)
	}
	_, err := c.api.Create(c.ctx(), c.request(streams{}))
	expectError(t, err, codes.AlreadyExists, c.ID)
	_, err = c.api.ResizePty(c.ctx(), &task.ResizePtyRequest{ID: c.ID, Width: 1, Height: 1})
	expectError(t, err, codes.FailedPrecondition, "terminal")
	_, err = c.api.Pause(c.ctx(), &task.PauseRequest{ID: c.ID})
	expectError(t, err, codes.FailedPrecondition, "created")
	_, err = c.api.Start(c.ctx(), &task.StartRequest{ID: c.ID, ExecID: "nobody"})
	expectError(t, err, codes.NotFound, "nobody")
	_, err = c.api.Exec(c.ctx(), &task.ExecProcessRequest{ID: c.ID, ExecID: "x", Spec: &anypb.Any{Value: []byte("{")}})
	expectError(t, err, codes.InvalidArgument, `"x"`)
	_, err = c.api.State(c.ctx(), &task.StateRequest{ID: "other"})
	expectError(t, err, codes.NotFound, `"other"`)
}

func TestBadCommandLine(t *testing.T) {
	c := newContainer(t, "true")
	for verb, says := range map[string]string{"": "without a command", "stop": `"stop"`} {
		if _, err := c.verb(verb); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("command %q: %v", verb, err)
		}
	}
	c.start()
	if _, err := c.verb("start"); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("second start: %v", err)
	}
	other := *c
	other.ID = "../x"
	if _, err := other.verb("start"); err == nil || !strings.Contains(err.Error(), `"../x"`) {
		t.Errorf("bad id: %v", err)
	}
	other = *c
	other.Flags = []string{"-bundle", "/no/such/bundle"}
	if _, err := other.verb("start"); err == nil {
		t.Error("a missing bundle was taken")
	}
}

// TestOutOfMemory: the kill is in the exit record, whichever process was killed, and announced when it happens.
func TestOutOfMemory(t *testing.T) {
	const memory = int64(20 << 20)
	t.Run("the first process", func(t *testing.T) {
		c := newContainer(t, "tail", "/dev/zero")
		c.Spec.Linux.Resources = limits(memory)
		c.create(streams{})
		c.run("")
		c.expectExit("", 137)
		c.expectOOMRecord()
	})
	t.Run("a child", func(t *testing.T) {
		c := newContainer(t, "sh", "-c", "tail /dev/zero; echo killed $?; exec sleep 1000")
		c.Spec.Linux.Resources = limits(memory)
		socket, _ := c.file("events.sock")
		var manager collector
		manager.listen(t, socket)
		c.Env = []string{"TTRPC_ADDRESS=" + socket}
		path, uri := c.streamURI("io.sock", nil)
		c.create(streams{stdout: uri})
		a := attach(t, path)
		c.run("")
		a.until("killed 137")
		manager.expect(t, "/tasks/create", "/tasks/start", "/tasks/oom")
		c.kill("", syscall.SIGKILL)
		c.expectExit("", 137)
		manager.expect(t, "/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit")
		c.expectOOMRecord()
	})
}

func (c *container) expectOOMRecord() {
	c.t.Helper()
	var record struct {
		OOMKilled bool `json:"oom_killed"`
	}
	readJSON(c.t, filepath.Join(c.Bundle, "exit.json"), &record)
	if !record.OOMKilled {
		c.t.Error("exit.json knows of no OOM kill")
	}
}
