package server

import (
	"context"
	"errors"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/shim/options"
	"github.com/berthd/berth/shim/process"
)

// checkpoint writes the container to the directory of the request, for which containerd's daemon has read the options'
// own.
func (s *Service) checkpoint(ctx context.Context, r *task.CheckpointTaskRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	opts, err := options.DecodeCheckpoint(r.Options)
	if err != nil {
		return nil, err
	}
	path := r.Path
	if path == "" {
		path = opts.ImagePath
	}
	if path == "" {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, errors.New("cannot checkpoint a container without a path for the images"))
	}
	err = c.Checkpoint(ctx, process.Checkpoint{
		Path: path, Parent: opts.ParentPath, Work: opts.WorkPath,
		Exit: opts.Exit, OpenTCP: opts.OpenTcp, ExternalSockets: opts.ExternalUnixSockets, Terminal: opts.Terminal,
		FileLocks: opts.FileLocks, EmptyNamespaces: opts.EmptyNamespaces, CgroupsMode: opts.CgroupsMode,
	})
	if err != nil {
		return nil, err
	}
	s.config.Events.Publish("/tasks/checkpointed", &events.TaskCheckpointed{ContainerID: r.ID, Checkpoint: path})
	return &emptypb.Empty{}, nil
}
