package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	runc "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/shim/cgroup"
	"github.com/berthd/berth/shim/options"
	"github.com/berthd/berth/shim/process"
	"github.com/berthd/berth/shim/runtimecmd"
	"github.com/berthd/berth/shim/stdio"
)

// shutdownTime bounds the wait for clients to leave when the shim ends.
const shutdownTime = 500 * time.Millisecond

func (s *Service) create(ctx context.Context, r *task.CreateTaskRequest) (*task.CreateTaskResponse, error) {
	if r.ID != s.config.ID {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot create container %q: this shim is for %q", r.ID, s.config.ID))
	}
	opts, err := options.Decode(r.Options)
	if err != nil {
		return nil, err
	}
	images, err := s.images(r, opts)
	if err != nil {
		return nil, err
	}
	runtime, err := runtimecmd.For(opts, s.config.Namespace)
	if err != nil {
		return nil, err
	}
	if path := opts.GetShimCgroup(); path != "" {
		if err := cgroup.Join(path, os.Getpid()); err != nil {
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot move the shim to cgroup %q: %w", path, err))
		}
	}
	if err := s.reserve(); err != nil {
		return nil, err
	}
	c, err := process.Create(ctx, s.config.Reaper, process.Config{
		ID:      r.ID,
		Bundle:  s.config.Bundle,
		Scratch: s.config.Scratch,
		Runtime: runtime,
		Rootfs:  r.Rootfs,
		Stdio: stdio.Config{
			Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal,
			UID: int(opts.IoUid), GID: int(opts.IoGid),
		},
		Images: images,
		Hooks:  s.hooks(r),
	})
	s.mu.Lock()
	s.container, s.creating = c, false
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	_, pid, _ := c.Init.State()
	return &task.CreateTaskResponse{Pid: uint32(pid)}, nil
}

// images returns the checkpoint that the container is made from, which containerd names in the request, in the options or in
// both. Options that are meant for another shim are refused.
func (s *Service) images(r *task.CreateTaskRequest, opts *runc.Options) (process.Images, error) {
	images := process.Images{Path: cmp.Or(r.Checkpoint, opts.CriuImagePath), Parent: r.ParentCheckpoint, Work: opts.CriuWorkPath}
	if opts.CriuImagePath != "" && opts.CriuImagePath != images.Path {
		return images, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf(
			"cannot use the option CriuImagePath %q: the request is for the checkpoint %q", opts.CriuImagePath, images.Path))
	}
	//nolint:staticcheck // deprecated, but clients may still set it
	if version := opts.GetTaskApiVersion(); version != 0 && version != 2 && version != 3 {
		return images, errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("cannot use the option TaskApiVersion %d: this shim has 2 and 3", version))
	}
	address := opts.GetTaskApiAddress() //nolint:staticcheck // as the version above
	if _, path, _ := strings.Cut(address, "://"); address != "" && !slices.Contains(s.config.Sockets, path) {
		return images, errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("cannot use the option TaskApiAddress %q: it is not this shim's", address))
	}
	return images, nil
}

// reserve makes sure that one container is created at most.
func (s *Service) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.creating || s.container != nil {
		return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("container %q exists already", s.config.ID))
	}
	s.creating = true
	return nil
}

// find returns the container and one of its processes.
func (s *Service) find(id, execID string) (*process.Container, *process.Process, error) {
	s.mu.Lock()
	c := s.container
	s.mu.Unlock()
	if c == nil || id != s.config.ID {
		return nil, nil, errdefs.As(errdefs.ErrNotFound, fmt.Errorf("container %q does not exist", id))
	}
	p, err := c.Find(execID)
	return c, p, err
}

func (s *Service) start(ctx context.Context, r *task.StartRequest) (*task.StartResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := c.Start(ctx, p); err != nil {
		return nil, err
	}
	_, pid, _ := p.State()
	return &task.StartResponse{Pid: uint32(pid)}, nil
}

func (s *Service) exec(_ context.Context, r *task.ExecProcessRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, errors.New("cannot execute a process without an exec id"))
	}
	err = c.Exec(r.ExecID, r.Spec.GetValue(), stdio.Config{
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal,
	})
	if err != nil {
		return nil, err
	}
	s.config.Events.Publish("/tasks/exec-added", &events.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	return &emptypb.Empty{}, nil
}

func (s *Service) state(_ context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	state, pid, exit := c.State(p)
	response := &task.StateResponse{
		ID: r.ID, ExecID: r.ExecID, Bundle: s.config.Bundle, Pid: uint32(pid), Status: apiStatus(state),
		Stdin: p.Stdio.Stdin, Stdout: p.Stdio.Stdout, Stderr: p.Stdio.Stderr, Terminal: p.Stdio.Terminal,
	}
	if state >= process.Stopped {
		response.ExitStatus, response.ExitedAt = uint32(exit.Status), timestamppb.New(exit.At)
	}
	return response, nil
}

func apiStatus(state process.State) tasktypes.Status {
	switch state {
	case process.Created:
		return tasktypes.Status_CREATED
	case process.Running:
		return tasktypes.Status_RUNNING
	case process.Paused:
		return tasktypes.Status_PAUSED
	default:
		return tasktypes.Status_STOPPED
	}
}

func (s *Service) wait(ctx context.Context, r *task.WaitRequest) (*task.WaitResponse, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return nil, err
	}
	return &task.WaitResponse{ExitStatus: uint32(exit.Status), ExitedAt: timestamppb.New(exit.At)}, nil
}

func (s *Service) kill(ctx context.Context, r *task.KillRequest) (*emptypb.Empty, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := c.Kill(ctx, p, unix.Signal(r.Signal), r.All); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (s *Service) pids(_ context.Context, r *task.PidsRequest) (*task.PidsResponse, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	pids, err := c.Cgroup().Pids()
	if err != nil {
		return nil, err
	}
	response := &task.PidsResponse{}
	for _, pid := range pids {
		response.Processes = append(response.Processes, &tasktypes.ProcessInfo{Pid: uint32(pid)})
	}
	return response, nil
}

func (s *Service) resizePty(_ context.Context, r *task.ResizePtyRequest) (*emptypb.Empty, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.Resize(uint16(r.Width), uint16(r.Height)); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (s *Service) closeIO(_ context.Context, r *task.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Stdin {
		if err := p.CloseStdin(); err != nil {
			return nil, fmt.Errorf("cannot close stdin: %w", err)
		}
	}
	return &emptypb.Empty{}, nil
}

func (s *Service) pause(ctx context.Context, r *task.PauseRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	if err := c.Pause(ctx); err != nil {
		return nil, err
	}
	s.config.Events.Publish("/tasks/paused", &events.TaskPaused{ContainerID: r.ID})
	return &emptypb.Empty{}, nil
}

func (s *Service) resume(ctx context.Context, r *task.ResumeRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	if err := c.Resume(ctx); err != nil {
		return nil, err
	}
	s.config.Events.Publish("/tasks/resumed", &events.TaskResumed{ContainerID: r.ID})
	return &emptypb.Empty{}, nil
}

func (s *Service) update(ctx context.Context, r *task.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	if err := c.Update(ctx, r.Resources.GetValue()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (s *Service) delete(ctx context.Context, r *task.DeleteRequest) (*task.DeleteResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := c.Delete(ctx, p); err != nil {
		return nil, err
	}
	_, pid, exit := p.State()
	if r.ExecID == "" {
		s.mu.Lock()
		s.container = nil
		s.mu.Unlock()
		s.config.Events.Publish("/tasks/delete", &events.TaskDelete{
			ContainerID: r.ID, Pid: uint32(pid), ExitStatus: uint32(exit.Status), ExitedAt: timestamppb.New(exit.At),
		})
	}
	return &task.DeleteResponse{Pid: uint32(pid), ExitStatus: uint32(exit.Status), ExitedAt: timestamppb.New(exit.At)}, nil
}

func (s *Service) connect(_ context.Context, r *task.ConnectRequest) (*task.ConnectResponse, error) {
	response := &task.ConnectResponse{ShimPid: uint32(os.Getpid())}
	if c, _, err := s.find(r.ID, ""); err == nil {
		_, pid, _ := c.Init.State()
		response.TaskPid = uint32(pid)
	}
	return response, nil
}

// shutDown ends the shim, unless it still has a container: a manager that has lost track must not orphan it.
func (s *Service) shutDown(context.Context, *task.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.container == nil && !s.creating {
		s.once.Do(func() {
			s.config.Ended()
			close(s.shutdown)
		})
	}
	return &emptypb.Empty{}, nil
}

func (s *Service) stats(_ context.Context, r *task.StatsRequest) (*task.StatsResponse, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	stats, err := c.Cgroup().Stats()
	if err != nil {
		return nil, err
	}
	return &task.StatsResponse{Stats: stats}, nil
}
