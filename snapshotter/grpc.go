package snapshotter

import (
	"context"
	"fmt"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/filters"
	"github.com/berthd/berth/internal/grpcserve"
	"github.com/berthd/berth/snapshotter/graph"
)

// Register serves s with r as containerd.services.snapshots.v1.Snapshots. There is one snapshotter behind it, so the
// requests' field "snapshotter" is not looked at.
func Register(r grpc.ServiceRegistrar, s *Snapshotter) {
	snapshotsapi.RegisterSnapshotsServer(grpcserve.Registrar(r), &service{snapshotter: s})
}

type service struct {
	snapshotsapi.UnimplementedSnapshotsServer
	snapshotter *Snapshotter
}

func (s *service) Prepare(_ context.Context, r *snapshotsapi.PrepareSnapshotRequest) (*snapshotsapi.PrepareSnapshotResponse, error) {
	mounts, err := s.snapshotter.create(&snapshotsapi.Info{
		Name: r.Key, Parent: r.Parent, Kind: snapshotsapi.Kind_ACTIVE, Labels: r.Labels,
	})
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.PrepareSnapshotResponse{Mounts: mounts}, nil
}

func (s *service) View(_ context.Context, r *snapshotsapi.ViewSnapshotRequest) (*snapshotsapi.ViewSnapshotResponse, error) {
	mounts, err := s.snapshotter.create(&snapshotsapi.Info{
		Name: r.Key, Parent: r.Parent, Kind: snapshotsapi.Kind_VIEW, Labels: r.Labels,
	})
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.ViewSnapshotResponse{Mounts: mounts}, nil
}

func (s *service) Mounts(_ context.Context, r *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	mounts, err := s.snapshotter.mounts(r.Key)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.MountsResponse{Mounts: mounts}, nil
}

func (s *service) Commit(ctx context.Context, r *snapshotsapi.CommitSnapshotRequest) (*emptypb.Empty, error) {
	err := s.snapshotter.commit(ctx, graph.Commit{Key: r.Key, Name: r.Name, Parent: r.Parent, Labels: r.Labels})
	return &emptypb.Empty{}, err
}

func (s *service) Remove(_ context.Context, r *snapshotsapi.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.snapshotter.remove(r.Key)
}

func (s *service) Stat(_ context.Context, r *snapshotsapi.StatSnapshotRequest) (*snapshotsapi.StatSnapshotResponse, error) {
	snapshot, err := s.snapshotter.graph.Get(r.Key)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.StatSnapshotResponse{Info: snapshot.Info}, nil
}

func (s *service) Update(_ context.Context, r *snapshotsapi.UpdateSnapshotRequest) (*snapshotsapi.UpdateSnapshotResponse, error) {
	if r.Info == nil {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot update a snapshot: the request has no info"))
	}
	info, err := s.snapshotter.graph.Update(r.Info, r.UpdateMask.GetPaths())
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.UpdateSnapshotResponse{Info: info}, nil
}

func (s *service) List(r *snapshotsapi.ListSnapshotsRequest, stream snapshotsapi.Snapshots_ListServer) error {
	matches, err := filters.Parse(r.Filters)
	if err != nil {
		return err
	}
	var infos []*snapshotsapi.Info
	err = s.snapshotter.graph.Walk(func(snapshot graph.Snapshot, err error) {
		switch {
		case err != nil:
			s.snapshotter.log.Error("a snapshot can't be read", "error", err)
		case matches(fields{snapshot.Info}):
			infos = append(infos, snapshot.Info)
		}
	})
	if err != nil {
		return err
	}
	for batch := range grpcserve.Batches(infos) {
		if err := stream.Send(&snapshotsapi.ListSnapshotsResponse{Info: batch}); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) Usage(ctx context.Context, r *snapshotsapi.UsageRequest) (*snapshotsapi.UsageResponse, error) {
	size, inodes, err := s.snapshotter.usage(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.UsageResponse{Size: size, Inodes: inodes}, nil
}

func (s *service) Cleanup(context.Context, *snapshotsapi.CleanupRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.snapshotter.Cleanup()
}

// fields are those of a snapshot that a filter can name.
type fields struct{ info *snapshotsapi.Info }

func (f fields) Field(path []string) (string, bool) {
	switch path[0] {
	case "name":
		return f.info.Name, true
	case "parent":
		return f.info.Parent, true
	case "kind":
		kinds := map[snapshotsapi.Kind]string{
			snapshotsapi.Kind_VIEW: "view", snapshotsapi.Kind_ACTIVE: "active", snapshotsapi.Kind_COMMITTED: "committed",
		}
		return kinds[f.info.Kind], true
	case "labels":
		return filters.Label(f.info.Labels, path[1:])
	}
	return "", false
}
