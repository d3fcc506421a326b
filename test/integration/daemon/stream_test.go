package daemon_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// attached is a client of AttachContainer.
type attached struct {
	t      *testing.T
	stream berthv1.ContainersService_AttachContainerClient
	output bytes.Buffer
}

// attach connects and returns when the daemon has said that it is ready.
func (w *world) attach(ref string) *attached {
	w.t.Helper()
	stream, err := w.containers.AttachContainer(w.ctx())
	if err != nil {
		w.t.Fatal(err)
	}
	start := &berthv1.AttachStart{Container: ref, Stdin: true, Stdout: true, Stderr: true}
	if err := stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_Start{Start: start}}); err != nil {
		w.t.Fatal(err)
	}
	ready, err := stream.Recv()
	if err != nil || ready.GetReady() == nil {
		w.t.Fatalf("attach: got %v, %v; want ready", ready, err)
	}
	return &attached{t: w.t, stream: stream}
}

func (a *attached) write(text string) {
	a.t.Helper()
	if err := a.stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_Stdin{Stdin: []byte(text)}}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *attached) closeInput() {
	a.t.Helper()
	if err := a.stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_StdinClose{StdinClose: &berthv1.StdinClose{}}}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *attached) resize(width, height uint32) {
	a.t.Helper()
	size := &berthv1.TerminalSize{Width: width, Height: height}
	if err := a.stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_Resize{Resize: size}}); err != nil {
		a.t.Fatal(err)
	}
}

// until reads output until it contains text.
func (a *attached) until(text string) {
	a.t.Helper()
	for !strings.Contains(a.output.String(), text) {
		message, err := a.stream.Recv()
		if err != nil || message.GetExit() != nil {
			a.t.Fatalf("the output %q ended before %q: %v, %v", a.output.String(), text, message, err)
		}
		a.output.Write(message.GetOutput().GetData())
	}
}

// exit reads to the end and returns the exit code.
func (a *attached) exit() int32 {
	a.t.Helper()
	for {
		message, err := a.stream.Recv()
		if err != nil {
			a.t.Fatalf("the stream ended without an exit code: %v", err)
		}
		a.output.Write(message.GetOutput().GetData())
		if exit := message.GetExit(); exit != nil {
			return exit.GetCode()
		}
	}
}

func TestAttachMissesNothing(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("sh", "-c", "echo first; cat; echo last; exit 9")
	spec.Process.Stdin, spec.Process.StdinOnce = true, true
	id := w.create("", spec)
	client := w.attach(id) // before there is a process
	w.start(id)
	client.until("first\n")
	big := strings.Repeat("0123456789abcde\n", 20000)
	client.write(big)
	client.closeInput()
	if code := client.exit(); code != 9 {
		t.Errorf("exit code %d, want 9", code)
	}
	if want := "first\n" + big + "last\n"; client.output.String() != want {
		t.Errorf("%d bytes of output, want %d", client.output.Len(), len(want))
	}
	if logged := w.logs(id); logged != client.output.String() {
		t.Errorf("the log has %d bytes, the client got %d", len(logged), client.output.Len())
	}
}

func TestAttachedClientsComeAndGo(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("sh", "-c", `echo ready; while read line; do echo "got $line"; done`)
	spec.Process.Stdin = true
	id := w.run("", spec)
	w.untilLogged(id, "ready")
	first, second := w.attach(id), w.attach(id)
	first.write("one\n")
	first.until("got one\n")
	second.until("got one\n")
	if err := first.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	third := w.attach(id)
	third.write("two\n")
	third.until("got two\n")
	if state := w.inspect(id).GetState(); state.GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING {
		t.Errorf("after a client has gone the container is %v", state.GetStatus())
	}
}

func TestTerminal(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("sh")
	spec.Process.Tty, spec.Process.Stdin = true, true
	id := w.create("", spec)
	client := w.attach(id)
	if _, err := w.containers.StartContainer(w.ctx(), &berthv1.StartContainerRequest{Container: id, TtySize: &berthv1.TerminalSize{Width: 91, Height: 23}}); err != nil {
		t.Fatal(err)
	}
	client.write("tty; stty size\n")
	client.until("/dev/")
	client.until("23 91")
	client.resize(101, 31)
	client.write("stty size; stty size\n")
	client.until("31 101")
	if _, err := w.containers.ResizeContainer(w.ctx(), &berthv1.ResizeContainerRequest{Container: id, Size: &berthv1.TerminalSize{Width: 77, Height: 11}}); err != nil {
		t.Fatal(err)
	}
	client.write("stty size; stty size\n")
	client.until("11 77")
	client.write("exit 4\n")
	if code := client.exit(); code != 4 {
		t.Errorf("exit code %d, want 4", code)
	}
}

func TestExec(t *testing.T) {
	w := newWorld(t)
	spec := w.sleeper()
	spec.Process.Env, spec.Process.WorkingDir = []string{"OWN=1"}, "/var"
	id := w.run("box", spec)
	if output, code := w.exec(id, "sh", "-c", "echo $IMAGE$OWN; pwd; exit 6"); output != "busybox1\n/var\n" || code != 6 {
		t.Errorf("got %q and exit code %d", output, code)
	}
	stream, err := w.containers.ExecContainer(w.ctx())
	if err != nil {
		t.Fatal(err)
	}
	send := func(request *berthv1.ExecContainerRequest) {
		if err := stream.Send(request); err != nil {
			t.Fatal(err)
		}
	}
	process := &berthv1.ProcessSpec{Args: []string{"sh"}, Tty: true, Stdin: true, User: "user", TtySize: &berthv1.TerminalSize{Width: 81, Height: 21}}
	send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Start{Start: &berthv1.ExecStart{Container: id, Process: process, Stdout: true}}})
	ready, err := stream.Recv()
	if err != nil || !ready.GetReady().GetTty() || ready.GetReady().GetPid() == 0 {
		t.Fatalf("got %v, %v; want ready with a terminal", ready, err)
	}
	execID := ready.GetReady().GetExecId()
	if answer, err := w.containers.InspectExec(w.ctx(), &berthv1.InspectExecRequest{Container: id, ExecId: execID}); err != nil || !answer.GetRunning() {
		t.Errorf("the exec is %v, %v; want running", answer, err)
	}
	var output bytes.Buffer
	until := func(text string) {
		for !strings.Contains(output.String(), text) {
			message, err := stream.Recv()
			if err != nil {
				t.Fatalf("%q ended before %q: %v", output.String(), text, err)
			}
			output.Write(message.GetOutput().GetData())
		}
	}
	stdin := func(text string) {
		send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Stdin{Stdin: []byte(text)}})
	}
	stdin("stty size; id\n")
	until("21 81")
	until("uid=1000(user)")
	send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Resize{Resize: &berthv1.TerminalSize{Width: 61, Height: 12}}})
	stdin("stty size; stty size\n")
	until("12 61")
	stdin("exit 8\n")
	for {
		message, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if exit := message.GetExit(); exit != nil {
			if exit.GetCode() != 8 {
				t.Errorf("exit code %d, want 8", exit.GetCode())
			}
			break
		}
	}
	if answer, err := w.containers.InspectExec(w.ctx(), &berthv1.InspectExecRequest{Container: id, ExecId: execID}); err != nil || answer.GetRunning() || answer.GetExitCode() != 8 {
		t.Errorf("after its end the exec is %v, %v", answer, err)
	}
	if list := w.inspect(id).GetExecIds(); len(list) != 0 {
		t.Errorf("execs that run: %v", list)
	}
}

func TestExecNeedsARunningContainer(t *testing.T) {
	w := newWorld(t)
	id := w.create("idle", w.sleeper())
	exec := func() error {
		stream, err := w.containers.ExecContainer(w.ctx())
		if err != nil {
			return err
		}
		start := &berthv1.ExecStart{Container: id, Process: &berthv1.ProcessSpec{Args: []string{"true"}}}
		if err := stream.Send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Start{Start: start}}); err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	wantCode(t, exec(), codes.FailedPrecondition, `"idle"`, "has not been started")
	w.start(id)
	if _, err := w.containers.PauseContainer(w.ctx(), &berthv1.PauseContainerRequest{Container: id}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, exec(), codes.FailedPrecondition, `"idle"`, "paused")
}

func TestLogs(t *testing.T) {
	w := newWorld(t)
	id := w.run("", w.spec("sh", "-c", "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done; printf unfinished"))
	w.wait(id)
	if all := w.logs(id); strings.Count(all, "out") != 5 || strings.Count(all, "err") != 5 || !strings.HasSuffix(all, "unfinished") {
		t.Errorf("logged %q", all)
	}
	if only := w.readLogs(&berthv1.StreamLogsRequest{Container: id, Stderr: true}); only != "err 1\nerr 2\nerr 3\nerr 4\nerr 5\n" {
		t.Errorf("stderr is %q", only)
	}
	two := uint64(2)
	if tail := w.readLogs(&berthv1.StreamLogsRequest{Container: id, Stderr: true, Tail: &two}); tail != "err 4\nerr 5\n" {
		t.Errorf("the last two lines are %q", tail)
	}
	none := uint64(0)
	if tail := w.readLogs(&berthv1.StreamLogsRequest{Container: id, Stdout: true, Tail: &none}); tail != "" {
		t.Errorf("the last 0 lines are %q", tail)
	}
	later := timestamppb.New(time.Now().Add(time.Hour))
	if since := w.readLogs(&berthv1.StreamLogsRequest{Container: id, Stdout: true, Since: later}); since != "" {
		t.Errorf("logged in an hour: %q", since)
	}
	if until := w.readLogs(&berthv1.StreamLogsRequest{Container: id, Stderr: true, Until: later}); strings.Count(until, "\n") != 5 {
		t.Errorf("logged until in an hour: %q", until)
	}
	silent := w.spec("echo", "x")
	silent.Log = &berthv1.LogSpec{Driver: "none"}
	id = w.run("silent", silent)
	w.wait(id)
	stream, err := w.containers.StreamLogs(w.ctx(), &berthv1.StreamLogsRequest{Container: id})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantCode(t, err, codes.FailedPrecondition, `"silent"`, `"none"`)
}

// A follower sees every line once and in order, however often the log is rotated below it.
func TestFollowOverRotation(t *testing.T) {
	w := newWorld(t)
	const lines = 3000
	spec := w.spec("sh", "-c", fmt.Sprintf("read go; i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done", lines))
	spec.Process.Stdin = true
	spec.Log = &berthv1.LogSpec{Options: map[string]string{"max-size": "20k", "max-file": "20"}}
	id := w.run("", spec)
	stream, err := w.containers.StreamLogs(w.ctx(), &berthv1.StreamLogsRequest{Container: id, Follow: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	w.attach(id).write("go\n")
	for i := 0; i < lines; i++ {
		line, err := stream.Recv()
		if err != nil {
			t.Fatalf("line %d: %v", i, err)
		}
		if want := fmt.Sprintf("line %d\n", i); string(line.GetLine()) != want {
			t.Fatalf("got %q, want %q", line.GetLine(), want)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last line: %v", err)
	}
	if all := w.logs(id); strings.Count(all, "\n") != lines {
		t.Errorf("%d lines are kept, want %d", strings.Count(all, "\n"), lines)
	}
}
