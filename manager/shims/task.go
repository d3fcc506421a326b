package shims

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"syscall"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	taskstate "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/grpcstatus"
	"github.com/berthd/berth/internal/panics"
)

type timestamp = timestamppb.Timestamp

// Task is a container as its shim sees it.
type Task struct {
	ID     string
	client *ttrpc.Client
	api    task.TTRPCTaskService
}

// The limits of calls. A shim that is stopped, or waits for a disk or for a runtime that hangs, accepts calls and answers none.
const (
	queryLimit   = 5 * time.Second  // what the shim knows, or reads from the kernel
	runtimeLimit = 10 * time.Second // what it runs the OCI runtime for
	launchLimit  = 30 * time.Second // the start of a process
	deleteLimit  = 15 * time.Second // what is taken away after its end
	createLimit  = time.Minute      // the making of a container
)

// ErrNoAnswer says that the shim has not answered a call in time. It may do what it was asked for later.
var ErrNoAnswer = errors.New("its shim does not answer")

// call makes one call, which limit ends if ctx does not. It does not wait for a send that blocks, either: to a shim that reads
// nothing more, ttrpc sends until the socket is full.
func call[Request, Response any](
	ctx context.Context, limit time.Duration, method func(context.Context, Request) (Response, error), request Request,
) (Response, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	type answer struct {
		response Response
		err      error
	}
	answered := make(chan answer, 1)
	go func() {
		defer cancel()
		var got answer
		defer func() { answered <- got }()
		defer panics.Recover(slog.Default(), "a call to a shim", &got.err)
		got.response, got.err = method(limited, request)
	}()
	var got answer
	select {
	case got = <-answered:
	case <-limited.Done():
		select {
		case got = <-answered: // both were ready
		default:
			got.err = limited.Err()
		}
	}
	// After an answer the context is cancelled. Only its deadline says that none came.
	late := errors.Is(limited.Err(), context.DeadlineExceeded)
	if got.err != nil && late && ctx.Err() == nil && !isStatus(got.err) {
		return got.response, errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("%w: nothing came for %v", ErrNoAnswer, limit))
	}
	return got.response, fromShim(got.err)
}

// isStatus tells an answer of the shim from what became of a call without one.
func isStatus(err error) bool {
	s, ok := status.FromError(err)
	return ok && s.Code() != codes.DeadlineExceeded && s.Code() != codes.Canceled
}

// IO says where the standard streams of a process go. Each is a URI that the shim understands, or empty.
type IO struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// Close ends the connection; the shim and its container go on.
func (t *Task) Close() error { return t.client.Close() }

// Create makes the container, ready to start, and returns its first process.
func (l *Launcher) Create(ctx context.Context, t *Task, bundle, runtime string, io IO) (pid uint32, err error) {
	chosen, err := l.options(runtime)
	if err != nil {
		return 0, err
	}
	response, err := call(ctx, createLimit, t.api.Create, &task.CreateTaskRequest{
		ID: t.ID, Bundle: bundle, Terminal: io.Terminal, Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr, Options: chosen,
	})
	if err != nil {
		return 0, commandError(err)
	}
	return response.GetPid(), nil
}

// Start runs the created container, or the exec that AddProcess added.
func (t *Task) Start(ctx context.Context, execID string) (pid uint32, err error) {
	response, err := call(ctx, launchLimit, t.api.Start, &task.StartRequest{ID: t.ID, ExecID: execID})
	if err != nil {
		return 0, commandError(err)
	}
	return response.GetPid(), nil
}

// specTypeURL is how containerd names a process of the runtime specification inside an Any.
const specTypeURL = "types.containerd.io/opencontainers/runtime-spec/1/Process"

// AddProcess defines another process of the running container.
func (t *Task) AddProcess(ctx context.Context, execID string, process *specs.Process, io IO) error {
	encoded, err := json.Marshal(process)
	if err != nil {
		return err
	}
	_, err = call(ctx, launchLimit, t.api.Exec, &task.ExecProcessRequest{
		ID: t.ID, ExecID: execID, Terminal: io.Terminal, Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr,
		Spec: &anypb.Any{TypeUrl: specTypeURL, Value: encoded},
	})
	return err
}

// Wait blocks until the process has exited, which alone may take any time. ErrUnavailable: the shim is gone.
func (t *Task) Wait(ctx context.Context, execID string) (Exited, error) {
	response, err := t.api.Wait(ctx, &task.WaitRequest{ID: t.ID, ExecID: execID})
	if err != nil {
		return Exited{}, fromShim(err)
	}
	return exited(response), nil
}

// Delete forgets a process that has exited: the container itself, or an exec.
func (t *Task) Delete(ctx context.Context, execID string) (Exited, error) {
	response, err := call(ctx, deleteLimit, t.api.Delete, &task.DeleteRequest{ID: t.ID, ExecID: execID})
	if err != nil {
		return Exited{}, err
	}
	return exited(response), nil
}

// Shutdown ends the shim, whose container has been deleted.
func (t *Task) Shutdown(ctx context.Context) error {
	_, err := call(ctx, runtimeLimit, t.api.Shutdown, &task.ShutdownRequest{ID: t.ID})
	if errors.Is(err, errdefs.ErrUnavailable) { // it may be gone before its answer is
		err = nil
	}
	return errors.Join(err, t.Close())
}

// Kill sends a signal to the process, or with all to every process of the container.
func (t *Task) Kill(ctx context.Context, execID string, signal syscall.Signal, all bool) error {
	_, err := call(ctx, runtimeLimit, t.api.Kill, &task.KillRequest{ID: t.ID, ExecID: execID, Signal: uint32(signal), All: all})
	return err
}

// Pause freezes all processes.
func (t *Task) Pause(ctx context.Context) error {
	_, err := call(ctx, runtimeLimit, t.api.Pause, &task.PauseRequest{ID: t.ID})
	return err
}

// Resume thaws them.
func (t *Task) Resume(ctx context.Context) error {
	_, err := call(ctx, runtimeLimit, t.api.Resume, &task.ResumeRequest{ID: t.ID})
	return err
}

// Resize sets the size of the process's terminal.
func (t *Task) Resize(ctx context.Context, execID string, width, height uint32) error {
	_, err := call(ctx, queryLimit, t.api.ResizePty, &task.ResizePtyRequest{ID: t.ID, ExecID: execID, Width: width, Height: height})
	return err
}

// Update changes the limits of the running container.
func (t *Task) Update(ctx context.Context, resources *specs.LinuxResources) error {
	encoded, err := json.Marshal(resources)
	if err != nil {
		return err
	}
	const typeURL = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
	_, err = call(ctx, runtimeLimit, t.api.Update, &task.UpdateTaskRequest{ID: t.ID, Resources: &anypb.Any{TypeUrl: typeURL, Value: encoded}})
	return err
}

// Pids returns the processes of the container, as the host numbers them.
func (t *Task) Pids(ctx context.Context) ([]uint32, error) {
	response, err := call(ctx, queryLimit, t.api.Pids, &task.PidsRequest{ID: t.ID})
	if err != nil {
		return nil, err
	}
	var pids []uint32
	for _, process := range response.GetProcesses() {
		pids = append(pids, process.GetPid())
	}
	return pids, nil
}

// Stats returns what the container uses, in the form of its cgroup version.
func (t *Task) Stats(ctx context.Context) (*anypb.Any, error) {
	response, err := call(ctx, queryLimit, t.api.Stats, &task.StatsRequest{ID: t.ID})
	if err != nil {
		return nil, err
	}
	return response.GetStats(), nil
}

// State is the state of a process.
type State struct {
	Pid             uint32
	Running, Paused bool
	Created         bool
	Exited          Exited
}

// State asks for the state of the container or of an exec.
func (t *Task) State(ctx context.Context, execID string) (State, error) {
	response, err := call(ctx, queryLimit, t.api.State, &task.StateRequest{ID: t.ID, ExecID: execID})
	if err != nil {
		return State{}, err
	}
	return State{
		Pid:     response.GetPid(),
		Created: response.GetStatus() == taskstate.Status_CREATED,
		Running: response.GetStatus() == taskstate.Status_RUNNING,
		Paused:  response.GetStatus() == taskstate.Status_PAUSED || response.GetStatus() == taskstate.Status_PAUSING,
		Exited:  exited(response),
	}, nil
}

// CommandError says that a command did not start, with the exit code that a shell would give.
type CommandError struct {
	Code int32 // 127: not found, 126: not executable, 128: another reason
	Err  error
}

func (e *CommandError) Error() string { return e.Err.Error() }

// Unwrap gives the cause, and the class that callers act on.
func (e *CommandError) Unwrap() []error { return []error{e.Err, errdefs.ErrFailedPrecondition} }

// commandError finds out from the runtime's sentence, which is all there is, why a command did not start.
func commandError(err error) error {
	err = fromShim(err)
	if errors.Is(err, errdefs.ErrUnavailable) {
		return err
	}
	text := err.Error()
	result := &CommandError{Code: 128, Err: err}
	switch {
	case !strings.Contains(text, "exec"):
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		result.Code = 127
	case strings.Contains(text, "permission denied"), strings.Contains(text, "exec format error"), strings.Contains(text, "is a directory"):
		result.Code = 126
	}
	return result
}

// fromShim gives an error of the shim its class, and takes off what the transport put around its sentence.
func fromShim(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, ttrpc.ErrServerClosed) {
		return errdefs.As(errdefs.ErrUnavailable, errors.New("the shim is gone"))
	}
	return grpcstatus.Error(err)
}
