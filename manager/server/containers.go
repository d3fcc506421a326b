package server

import (
	"context"
	"errors"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/grpcserve"
	"github.com/berthd/berth/manager/containers"
	"github.com/berthd/berth/manager/shims"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Containers answers ContainersService.
type Containers struct {
	berthv1.UnimplementedContainersServiceServer
	containers *containers.Service
}

// NewContainers makes the service on what keeps the containers.
func NewContainers(service *containers.Service) *Containers { return &Containers{containers: service} }

// CreateContainer makes a container.
func (s *Containers) CreateContainer(ctx context.Context, r *berthv1.CreateContainerRequest) (*berthv1.CreateContainerResponse, error) {
	container, warnings, err := s.containers.Create(ctx, r.GetName(), r.GetSpec())
	if err != nil {
		return nil, err
	}
	return &berthv1.CreateContainerResponse{Id: container.GetId(), Name: container.GetName(), Warnings: warnings}, nil
}

// StartContainer runs its process.
func (s *Containers) StartContainer(ctx context.Context, r *berthv1.StartContainerRequest) (*berthv1.StartContainerResponse, error) {
	pid, err := s.containers.Start(ctx, r.GetContainer(), r.GetTtySize())
	if err != nil {
		return nil, commandStatus(err)
	}
	return &berthv1.StartContainerResponse{Pid: pid}, nil
}

// commandStatus adds the exit code that a shell would give to an error about a command that did not start.
func commandStatus(err error) error {
	var command *shims.CommandError
	if !errors.As(err, &command) {
		return err
	}
	plain := status.New(codes.FailedPrecondition, grpcserve.Sentence(err))
	detailed, detailErr := plain.WithDetails(&errdetails.ErrorInfo{
		Reason: "COMMAND_NOT_STARTED", Domain: "berth.v1", Metadata: map[string]string{"exit_code": strconv.Itoa(int(command.Code))},
	})
	if detailErr != nil {
		return plain.Err()
	}
	return detailed.Err()
}

func stopping(signal string, timeout *durationpb.Duration) containers.Stopping {
	how := containers.Stopping{Signal: signal}
	if timeout != nil {
		limit := timeout.AsDuration()
		how.Timeout = &limit
	}
	return how
}

// StopContainer ends its process.
func (s *Containers) StopContainer(ctx context.Context, r *berthv1.StopContainerRequest) (*berthv1.StopContainerResponse, error) {
	code, err := s.containers.Stop(ctx, r.GetContainer(), stopping(r.GetSignal(), r.GetTimeout()))
	if err != nil {
		return nil, err
	}
	return &berthv1.StopContainerResponse{ExitCode: code}, nil
}

// KillContainer sends a signal.
func (s *Containers) KillContainer(ctx context.Context, r *berthv1.KillContainerRequest) (*berthv1.KillContainerResponse, error) {
	return &berthv1.KillContainerResponse{}, s.containers.Kill(ctx, r.GetContainer(), r.GetSignal(), r.GetAll())
}

// PauseContainer freezes all processes.
func (s *Containers) PauseContainer(ctx context.Context, r *berthv1.PauseContainerRequest) (*berthv1.PauseContainerResponse, error) {
	return &berthv1.PauseContainerResponse{}, s.containers.Pause(ctx, r.GetContainer())
}

// ResumeContainer thaws them.
func (s *Containers) ResumeContainer(ctx context.Context, r *berthv1.ResumeContainerRequest) (*berthv1.ResumeContainerResponse, error) {
	return &berthv1.ResumeContainerResponse{}, s.containers.Resume(ctx, r.GetContainer())
}

// RestartContainer stops and starts.
func (s *Containers) RestartContainer(ctx context.Context, r *berthv1.RestartContainerRequest) (*berthv1.RestartContainerResponse, error) {
	err := s.containers.Restart(ctx, r.GetContainer(), stopping(r.GetSignal(), r.GetTimeout()))
	return &berthv1.RestartContainerResponse{}, commandStatus(err)
}

// RemoveContainer deletes a container.
func (s *Containers) RemoveContainer(ctx context.Context, r *berthv1.RemoveContainerRequest) (*berthv1.RemoveContainerResponse, error) {
	how := containers.Removal{Force: r.GetForce(), Volumes: r.GetVolumes()}
	return &berthv1.RemoveContainerResponse{}, s.containers.Remove(ctx, r.GetContainer(), how)
}

// ListContainers lists.
func (s *Containers) ListContainers(ctx context.Context, r *berthv1.ListContainersRequest) (*berthv1.ListContainersResponse, error) {
	list, err := s.containers.List(ctx, containers.Query{All: r.GetAll(), Filters: r.GetFilters(), Limit: int(r.GetLimit()), Size: r.GetSize()})
	if err != nil {
		return nil, err
	}
	return &berthv1.ListContainersResponse{Containers: list}, nil
}

// InspectContainer tells all.
func (s *Containers) InspectContainer(ctx context.Context, r *berthv1.InspectContainerRequest) (*berthv1.InspectContainerResponse, error) {
	container, err := s.containers.Inspect(ctx, r.GetContainer(), r.GetSize())
	if err != nil {
		return nil, err
	}
	return &berthv1.InspectContainerResponse{Container: container}, nil
}

// WaitContainer blocks until the condition holds.
func (s *Containers) WaitContainer(ctx context.Context, r *berthv1.WaitContainerRequest) (*berthv1.WaitContainerResponse, error) {
	code, reason, err := s.containers.Wait(ctx, r.GetContainer(), r.GetCondition())
	if err != nil {
		return nil, err
	}
	return &berthv1.WaitContainerResponse{ExitCode: code, Error: reason}, nil
}

// RenameContainer gives another name.
func (s *Containers) RenameContainer(ctx context.Context, r *berthv1.RenameContainerRequest) (*berthv1.RenameContainerResponse, error) {
	return &berthv1.RenameContainerResponse{}, s.containers.Rename(ctx, r.GetContainer(), r.GetName())
}

// UpdateContainer changes limits.
func (s *Containers) UpdateContainer(ctx context.Context, r *berthv1.UpdateContainerRequest) (*berthv1.UpdateContainerResponse, error) {
	return &berthv1.UpdateContainerResponse{}, s.containers.Update(ctx, r.GetContainer(), r.GetResources(), r.GetRestart())
}

// TopContainer lists processes.
func (s *Containers) TopContainer(ctx context.Context, r *berthv1.TopContainerRequest) (*berthv1.TopContainerResponse, error) {
	return s.containers.Top(ctx, r.GetContainer(), r.GetPsArgs())
}

// InspectExec tells about a process that ExecContainer added.
func (s *Containers) InspectExec(_ context.Context, r *berthv1.InspectExecRequest) (*berthv1.InspectExecResponse, error) {
	return s.containers.InspectExec(r.GetContainer(), r.GetExecId())
}

// ResizeContainer sets a terminal's size.
func (s *Containers) ResizeContainer(ctx context.Context, r *berthv1.ResizeContainerRequest) (*berthv1.ResizeContainerResponse, error) {
	return &berthv1.ResizeContainerResponse{}, s.containers.Resize(ctx, r.GetContainer(), r.GetExecId(), r.GetSize())
}

// PruneContainers removes those that do not run.
func (s *Containers) PruneContainers(ctx context.Context, r *berthv1.PruneContainersRequest) (*berthv1.PruneContainersResponse, error) {
	removed, reclaimed, err := s.containers.Prune(ctx, r.GetFilters())
	if err != nil {
		return nil, err
	}
	return &berthv1.PruneContainersResponse{Removed: removed, SpaceReclaimed: reclaimed}, nil
}

// asTime is the zero time for a timestamp that is absent.
func asTime(at *timestamppb.Timestamp) time.Time {
	if !at.IsValid() {
		return time.Time{}
	}
	return at.AsTime()
}
