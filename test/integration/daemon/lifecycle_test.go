package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

func TestLifeOfAContainer(t *testing.T) {
	w := newWorld(t)
	id := w.create("story", w.spec("sh", "-c", "echo out; echo err >&2; exit 3"))
	if state := w.inspect("story").GetState(); state.GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_CREATED {
		t.Errorf("a new container is %v", state.GetStatus())
	}
	w.start("story")
	if code := w.wait(id[:12]); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	container := w.inspect(id)
	state := container.GetState()
	if state.GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_EXITED || state.GetExitCode() != 3 || state.GetPid() != 0 {
		t.Errorf("after its end: %v", state)
	}
	if !state.GetFinishedAt().AsTime().After(state.GetStartedAt().AsTime()) {
		t.Errorf("it ended at %v, before its start at %v", state.GetFinishedAt().AsTime(), state.GetStartedAt().AsTime())
	}
	if logged := w.logs(id); !strings.Contains(logged, "out\n") || !strings.Contains(logged, "err\n") {
		t.Errorf("logged %q", logged)
	}
	w.start(id) // again, in the same writable layer
	if code := w.wait(id); code != 3 {
		t.Errorf("exit code of the second run %d, want 3", code)
	}
	w.remove(id)
	_, err := w.containers.InspectContainer(w.ctx(), &berthv1.InspectContainerRequest{Container: id})
	wantCode(t, err, codes.NotFound, "no such container", id)
	for _, dir := range []string{w.Root + "/containers", w.State + "/bundles", w.State + "/netns"} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("left in %s: %v, %v", dir, entries, err)
		}
	}
}

func TestWhatAContainerWritesIsItsOwn(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"one", "two"} {
		w.run(name, w.spec("sh", "-c", "ls /mark 2>&1; echo "+name+" >/mark; rm /bin/vi; cat /mark"))
		if code := w.wait(name); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if logged := w.logs(name); !strings.Contains(logged, "No such file") || !strings.HasSuffix(logged, name+"\n") {
			t.Errorf("%s logged %q", name, logged)
		}
	}
	w.start("one") // what it wrote is still there
	w.wait("one")
	if logged := w.logs("one"); !strings.Contains(logged, "/mark\n") {
		t.Errorf("the second run logged %q", logged)
	}
}

func exitCodeDetail(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetMetadata()["exit_code"]
		}
	}
	return ""
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	id := w.create("taken", w.spec("true"))
	_, err := w.containers.CreateContainer(w.ctx(), &berthv1.CreateContainerRequest{Name: "taken", Spec: w.spec("true")})
	wantCode(t, err, codes.AlreadyExists, `"taken"`, id[:12])
	_, err = w.containers.CreateContainer(w.ctx(), &berthv1.CreateContainerRequest{Name: "-bad/name", Spec: w.spec("true")})
	wantCode(t, err, codes.InvalidArgument, `"-bad/name"`)
	if _, err := w.containers.RenameContainer(w.ctx(), &berthv1.RenameContainerRequest{Container: "taken", Name: "given"}); err != nil {
		t.Fatal(err)
	}
	other := w.create("taken", w.spec("true"))
	_, err = w.containers.RenameContainer(w.ctx(), &berthv1.RenameContainerRequest{Container: "given", Name: "taken"})
	wantCode(t, err, codes.AlreadyExists, other[:12])
	if w.inspect("given").GetId() != id {
		t.Error("the renamed container is not found by its new name")
	}
	unnamed := w.create("", w.spec("true"))
	if name := w.inspect(unnamed).GetName(); !strings.Contains(name, "_") {
		t.Errorf("the daemon chose the name %q", name)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	for text, change := range map[string]func(*berthv1.ContainerSpec){
		"nosuch:latest":  func(s *berthv1.ContainerSpec) { s.Image = "localhost/nosuch:latest" },
		`"SIGNOPE"`:      func(s *berthv1.ContainerSpec) { s.StopSignal = "SIGNOPE" },
		`"syslog"`:       func(s *berthv1.ContainerSpec) { s.Log = &berthv1.LogSpec{Driver: "syslog"} },
		"memory 1000":    func(s *berthv1.ContainerSpec) { s.Resources = &berthv1.Resources{Memory: new(int64(1000))} },
		"10000 CPUs":     func(s *berthv1.ContainerSpec) { s.Resources = &berthv1.Resources{NanoCpus: new(int64(1e13))} },
		"linux/riscv64":  func(s *berthv1.ContainerSpec) { s.Platform = &berthv1.Platform{Architecture: "riscv64"} },
		"nobody-here":    func(s *berthv1.ContainerSpec) { s.Network = &berthv1.NetworkSpec{Mode: "container:nobody-here"} },
		"/no/such/dir":   func(s *berthv1.ContainerSpec) { s.Mounts = []*berthv1.Mount{bind("/no/such/dir", "/x")} },
		"relative":       func(s *berthv1.ContainerSpec) { s.Mounts = []*berthv1.Mount{bind("/tmp", "relative")} },
		`"no-runtime"`:   func(s *berthv1.ContainerSpec) { s.Runtime = "no-runtime" },
		"auto_remove":    func(s *berthv1.ContainerSpec) { s.AutoRemove = true; s.Restart = always() },
		"health checks":  func(s *berthv1.ContainerSpec) { s.Health = &berthv1.HealthCheck{Test: []string{"CMD", "true"}} },
		"CAP_EVERYTHING": func(s *berthv1.ContainerSpec) { s.Security = &berthv1.Security{CapAdd: []string{"CAP_EVERYTHING"}} },
	} {
		spec := w.spec("true")
		change(spec)
		created, err := w.containers.CreateContainer(w.ctx(), &berthv1.CreateContainerRequest{Spec: spec})
		if err == nil {
			w.remove(created.GetId())
		}
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want an error that names %s", err, text)
		}
	}
	if entries, err := os.ReadDir(w.Root + "/containers"); err != nil || len(entries) > 0 {
		t.Errorf("refused containers left %v, %v", entries, err)
	}
}

func bind(source, target string) *berthv1.Mount {
	return &berthv1.Mount{Type: berthv1.MountType_MOUNT_TYPE_BIND, Source: source, Target: target}
}

func always() *berthv1.RestartPolicy {
	return &berthv1.RestartPolicy{Condition: berthv1.RestartCondition_RESTART_CONDITION_ALWAYS}
}

func TestStopKillPauseRestart(t *testing.T) {
	w := newWorld(t)
	id := w.run("life", w.sleeper())
	w.untilLogged(id, "ready")
	pid := w.inspect(id).GetState().GetPid()

	if _, err := w.containers.PauseContainer(w.ctx(), &berthv1.PauseContainerRequest{Container: id}); err != nil {
		t.Fatal(err)
	}
	_, err := w.containers.PauseContainer(w.ctx(), &berthv1.PauseContainerRequest{Container: id})
	wantCode(t, err, codes.FailedPrecondition, "is paused")
	if status := w.inspect(id).GetState().GetStatus(); status != berthv1.ContainerStatus_CONTAINER_STATUS_PAUSED {
		t.Errorf("a paused container is %v", status)
	}
	if _, err := w.containers.ResumeContainer(w.ctx(), &berthv1.ResumeContainerRequest{Container: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.containers.RestartContainer(w.ctx(), &berthv1.RestartContainerRequest{Container: id}); err != nil {
		t.Fatal(err)
	}
	if again := w.inspect(id).GetState(); again.GetPid() == pid || again.GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING {
		t.Errorf("after a restart: %v", again)
	}
	_, err = w.containers.RemoveContainer(w.ctx(), &berthv1.RemoveContainerRequest{Container: id})
	wantCode(t, err, codes.FailedPrecondition, "running")

	if _, err := w.containers.PauseContainer(w.ctx(), &berthv1.PauseContainerRequest{Container: id}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, err := w.containers.StopContainer(w.ctx(), &berthv1.StopContainerRequest{Container: id, Timeout: durationpb.New(testenv.Patience(20 * time.Second))}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > testenv.Patience(10*time.Second) {
		t.Errorf("stopping a paused container that handles SIGTERM took %v", took)
	}
	w.start(id)
	if _, err := w.containers.PauseContainer(w.ctx(), &berthv1.PauseContainerRequest{Container: id}); err != nil {
		t.Fatal(err)
	}
	// SIGKILL ends a paused container too.
	if _, err := w.containers.KillContainer(w.ctx(), &berthv1.KillContainerRequest{Container: id}); err != nil {
		t.Fatal(err)
	}
	if code := w.wait(id); code != 137 {
		t.Errorf("exit code of a killed container %d, want 137", code)
	}
	_, err = w.containers.KillContainer(w.ctx(), &berthv1.KillContainerRequest{Container: id})
	wantCode(t, err, codes.FailedPrecondition, "not running")
}

func TestStopKillsWhoDoesNotListen(t *testing.T) {
	w := newWorld(t)
	id := w.run("", w.spec("sh", "-c", `trap "" TERM; echo ready; while :; do sleep 1; done`))
	w.untilLogged(id, "ready")
	answer, err := w.containers.StopContainer(w.ctx(), &berthv1.StopContainerRequest{Container: id, Timeout: durationpb.New(300 * time.Millisecond)})
	if err != nil || answer.GetExitCode() != 137 {
		t.Errorf("stop answered %v, %v; want exit code 137", answer, err)
	}
}

// A stop that waits for ever, of a container that does not listen, keeps no other client away from it.
func TestLongStopHoldsNobodyUp(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("sh", "-c", `trap "echo asked" TERM; echo ready; while :; do sleep 0.1; done`)
	spec.StopTimeout = durationpb.New(-time.Second)
	id := w.run("", spec)
	w.untilLogged(id, "ready")
	stopped, restarted := make(chan int32, 1), make(chan error, 1)
	go func() {
		answer, err := w.containers.StopContainer(w.ctx(), &berthv1.StopContainerRequest{Container: id})
		if err != nil {
			t.Errorf("the stop that waits failed: %v", err)
		}
		stopped <- answer.GetExitCode()
	}()
	w.untilLogged(id, "asked")
	ctx, cancel := context.WithTimeout(w.ctx(), 30*time.Second)
	defer cancel()
	try := func(what string, err error) {
		if err != nil {
			t.Fatalf("%s beside a stop that waits: %v", what, err)
		}
	}
	_, err := w.containers.RenameContainer(ctx, &berthv1.RenameContainerRequest{Container: id, Name: "other"})
	try("rename", err)
	_, err = w.containers.PauseContainer(ctx, &berthv1.PauseContainerRequest{Container: id})
	try("pause", err)
	_, err = w.containers.StartContainer(ctx, &berthv1.StartContainerRequest{Container: id})
	wantCode(t, err, codes.FailedPrecondition)
	_, err = w.containers.StopContainer(ctx, &berthv1.StopContainerRequest{Container: id, Timeout: durationpb.New(0)})
	try("a stop at once", err)
	if code := <-stopped; code != 137 {
		t.Errorf("the stop that waits answered exit code %d, want 137", code)
	}

	before := strings.Count(w.logs(id), "asked")
	w.start(id)
	go func() {
		_, err := w.containers.RestartContainer(w.ctx(), &berthv1.RestartContainerRequest{Container: id})
		restarted <- err
	}()
	testenv.Until(t, 10*time.Second, "the restart's signal", func() error {
		if got := strings.Count(w.logs(id), "asked"); got <= before {
			return fmt.Errorf("%d signals, as before", got)
		}
		return nil
	})
	_, err = w.containers.RemoveContainer(ctx, &berthv1.RemoveContainerRequest{Container: id, Force: true})
	try("removal", err)
	wantCode(t, <-restarted, codes.NotFound)
}

func TestAutoRemove(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("sh", "-c", "read line; exit 5")
	spec.AutoRemove, spec.Process.Stdin = true, true
	id := w.create("", spec)
	removed := make(chan error, 1)
	var code int32
	go func() {
		answer, err := w.containers.WaitContainer(w.ctx(), &berthv1.WaitContainerRequest{Container: id, Condition: berthv1.WaitCondition_WAIT_CONDITION_REMOVED})
		code = answer.GetExitCode()
		removed <- err
	}()
	client := w.attach(id)
	w.start(id)
	client.write("\n")
	if got := client.exit(); got != 5 {
		t.Errorf("the attached client got exit code %d, want 5", got)
	}
	if err := <-removed; err != nil || code != 5 {
		t.Errorf("waiting for the removal answered %d, %v", code, err)
	}
	_, err := w.containers.InspectContainer(w.ctx(), &berthv1.InspectContainerRequest{Container: id})
	wantCode(t, err, codes.NotFound)
}

func TestRestartPolicies(t *testing.T) {
	w := newWorld(t)
	failing := w.spec("sh", "-c", "echo run; exit 1")
	failing.Restart = &berthv1.RestartPolicy{Condition: berthv1.RestartCondition_RESTART_CONDITION_ON_FAILURE, MaxRetries: 2}
	id := w.run("failing", failing)
	if code := w.wait(id); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if runs := strings.Count(w.logs(id), "run\n"); runs != 3 {
		t.Errorf("on-failure with 2 retries ran %d times, want 3", runs)
	}
	if count := w.inspect(id).GetState().GetRestartCount(); count != 2 {
		t.Errorf("restart count %d, want 2", count)
	}

	w.start(id) // by a client: the policy counts anew
	w.wait(id)
	if runs := strings.Count(w.logs(id), "run\n"); runs != 6 {
		t.Errorf("started again it has run %d times, want 6", runs)
	}
	if count := w.inspect(id).GetState().GetRestartCount(); count != 2 {
		t.Errorf("restart count of the second time %d, want 2", count)
	}

	fine := w.spec("true")
	fine.Restart = failing.GetRestart()
	id = w.run("fine", fine)
	if w.wait(id); w.inspect(id).GetState().GetRestartCount() != 0 {
		t.Error("on-failure restarted a container that has succeeded")
	}

	steady := w.sleeper()
	steady.Restart = always()
	id = w.run("steady", steady)
	w.untilLogged(id, "ready")
	exits := make(chan error, 1)
	go func() {
		_, err := w.containers.WaitContainer(w.ctx(), &berthv1.WaitContainerRequest{Container: id, Condition: berthv1.WaitCondition_WAIT_CONDITION_NEXT_EXIT})
		exits <- err
	}()
	stream, err := w.containers.StreamLogs(w.ctx(), &berthv1.StreamLogsRequest{Container: id, Follow: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	w.exec(id, "sh", "-c", "kill -TERM 1")
	if err := <-exits; err != nil {
		t.Fatal(err)
	}
	if line, err := stream.Recv(); err != nil || string(line.GetLine()) != "ready\n" {
		t.Fatalf("following the log over a restart gave %q, %v", line.GetLine(), err)
	}
	if _, err := w.containers.StopContainer(w.ctx(), &berthv1.StopContainerRequest{Container: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the log of a stopped container goes on: %v", err)
	}
	if status := w.inspect(id).GetState().GetStatus(); status != berthv1.ContainerStatus_CONTAINER_STATUS_EXITED {
		t.Errorf("a stopped container with policy always is %v", status)
	}
}
