// Package daemon_test drives berthd over gRPC, as a front end does.
package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// world is a daemon with an image of busybox.
type world struct {
	*testenv.Daemon
	t          *testing.T
	containers berthv1.ContainersServiceClient
	images     berthv1.ImagesServiceClient
	events     berthv1.EventsServiceClient
	system     berthv1.SystemServiceClient
	image      string
	begin      *timestamppb.Timestamp
}

func newWorld(t *testing.T, args ...string) *world {
	t.Helper()
	testenv.NeedRoot(t)
	image := testenv.BusyboxImage(t, testenv.Registry(t))
	daemon := testenv.StartDaemon(t, args...)
	conn := daemon.Dial()
	w := &world{
		Daemon: daemon, t: t, containers: berthv1.NewContainersServiceClient(conn), images: berthv1.NewImagesServiceClient(conn),
		events: berthv1.NewEventsServiceClient(conn), system: berthv1.NewSystemServiceClient(conn), image: image,
		begin: timestamppb.Now(),
	}
	w.pull(image)
	return w
}

// ctx bounds each call: a daemon that hangs fails the test.
func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), testenv.Patience(time.Minute))
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) pull(image string) {
	w.t.Helper()
	stream, err := w.images.PullImage(w.ctx(), &berthv1.PullImageRequest{Reference: image})
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		w.t.Fatalf("cannot pull %s: %v", image, err)
	}
}

// spec is a container that runs a command without a network.
func (w *world) spec(command ...string) *berthv1.ContainerSpec {
	return &berthv1.ContainerSpec{
		Image: w.image, Process: &berthv1.ProcessSpec{Args: command}, Network: &berthv1.NetworkSpec{Mode: "none"},
	}
}

// sleeper ends at once on SIGTERM, which process 1 has to ask for.
func (w *world) sleeper() *berthv1.ContainerSpec {
	return w.spec("sh", "-c", `trap "exit 0" TERM; echo ready; sleep 1000 & wait`)
}

func (w *world) create(name string, spec *berthv1.ContainerSpec) string {
	w.t.Helper()
	created, err := w.containers.CreateContainer(w.ctx(), &berthv1.CreateContainerRequest{Name: name, Spec: spec})
	if err != nil {
		w.t.Fatalf("cannot create container: %v", err)
	}
	return created.GetId()
}

func (w *world) start(ref string) {
	w.t.Helper()
	if _, err := w.containers.StartContainer(w.ctx(), &berthv1.StartContainerRequest{Container: ref}); err != nil {
		w.t.Fatalf("cannot start container: %v", err)
	}
}

func (w *world) run(name string, spec *berthv1.ContainerSpec) string {
	w.t.Helper()
	id := w.create(name, spec)
	w.start(id)
	return id
}

func (w *world) inspect(ref string) *berthv1.Container {
	w.t.Helper()
	answer, err := w.containers.InspectContainer(w.ctx(), &berthv1.InspectContainerRequest{Container: ref})
	if err != nil {
		w.t.Fatalf("cannot inspect container: %v", err)
	}
	return answer.GetContainer()
}

func (w *world) wait(ref string) int32 {
	w.t.Helper()
	answer, err := w.containers.WaitContainer(w.ctx(), &berthv1.WaitContainerRequest{Container: ref})
	if err != nil {
		w.t.Fatalf("cannot wait for container: %v", err)
	}
	return answer.GetExitCode()
}

func (w *world) remove(ref string) {
	w.t.Helper()
	if _, err := w.containers.RemoveContainer(w.ctx(), &berthv1.RemoveContainerRequest{Container: ref, Force: true, Volumes: true}); err != nil {
		w.t.Fatalf("cannot remove container: %v", err)
	}
}

// logs returns what a container has logged, stdout and stderr in one.
func (w *world) logs(ref string) string {
	w.t.Helper()
	return w.readLogs(&berthv1.StreamLogsRequest{Container: ref, Stdout: true, Stderr: true})
}

func (w *world) readLogs(request *berthv1.StreamLogsRequest) string {
	w.t.Helper()
	stream, err := w.containers.StreamLogs(w.ctx(), request)
	if err != nil {
		w.t.Fatal(err)
	}
	var text bytes.Buffer
	for {
		line, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return text.String()
		}
		if err != nil {
			w.t.Fatalf("cannot read logs: %v", err)
		}
		text.Write(line.GetLine())
	}
}

// untilLogged waits until a container has written a line that contains text.
func (w *world) untilLogged(ref, text string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), testenv.Patience(20*time.Second))
	defer cancel()
	stream, err := w.containers.StreamLogs(ctx, &berthv1.StreamLogsRequest{Container: ref, Follow: true, Stdout: true, Stderr: true})
	if err != nil {
		w.t.Fatal(err)
	}
	for {
		line, err := stream.Recv()
		if err != nil {
			w.t.Fatalf("the container has not logged %q: %v", text, err)
		}
		if bytes.Contains(line.GetLine(), []byte(text)) {
			return
		}
	}
}

// exec runs a command in a container and returns its output and exit code.
func (w *world) exec(ref string, command ...string) (string, int32) {
	w.t.Helper()
	stream, err := w.containers.ExecContainer(w.ctx())
	if err != nil {
		w.t.Fatal(err)
	}
	start := &berthv1.ExecStart{Container: ref, Process: &berthv1.ProcessSpec{Args: command}, Stdout: true, Stderr: true}
	if err := stream.Send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Start{Start: start}}); err != nil {
		w.t.Fatal(err)
	}
	var output bytes.Buffer
	for {
		message, err := stream.Recv()
		if err != nil {
			w.t.Fatalf("exec of %q: %v", command, err)
		}
		output.Write(message.GetOutput().GetData())
		if exit := message.GetExit(); exit != nil {
			return output.String(), exit.GetCode()
		}
	}
}

// wantCode fails the test unless err is a status with the code and a sentence that contains each text.
func wantCode(t *testing.T, err error, code codes.Code, texts ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("got %v, want code %v", err, code)
	}
	for _, text := range texts {
		if !bytes.Contains([]byte(status.Convert(err).Message()), []byte(text)) {
			t.Errorf("message %q does not contain %q", status.Convert(err).Message(), text)
		}
	}
}
