package server

import (
	"cmp"
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/tree"
	"github.com/berthd/berth/manager/volumes"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Volumes answers VolumesService.
type Volumes struct {
	berthv1.UnimplementedVolumesServiceServer
	volumes *volumes.Service
}

// NewVolumes makes the service on what keeps the volumes.
func NewVolumes(service *volumes.Service) *Volumes { return &Volumes{volumes: service} }

// CreateVolume makes a volume.
func (s *Volumes) CreateVolume(ctx context.Context, request *berthv1.CreateVolumeRequest) (*berthv1.CreateVolumeResponse, error) {
	volume, err := s.volumes.Create(ctx, volumes.Volume{
		Name: cmp.Or(request.GetName(), volumes.NewName()), Anonymous: request.GetName() == "",
		Driver: request.GetDriver(), Options: request.GetOptions(), Labels: request.GetLabels(),
	})
	if err != nil {
		return nil, err
	}
	return &berthv1.CreateVolumeResponse{Volume: volumeMessage(volume)}, nil
}

// RemoveVolume deletes a volume and its content.
func (s *Volumes) RemoveVolume(ctx context.Context, request *berthv1.RemoveVolumeRequest) (*berthv1.RemoveVolumeResponse, error) {
	return &berthv1.RemoveVolumeResponse{}, s.volumes.Remove(ctx, request.GetName(), request.GetForce())
}

// ListVolumes answers by name.
func (s *Volumes) ListVolumes(ctx context.Context, request *berthv1.ListVolumesRequest) (*berthv1.ListVolumesResponse, error) {
	list, err := s.volumes.List(ctx, request.GetFilters())
	if err != nil {
		return nil, err
	}
	response := &berthv1.ListVolumesResponse{}
	for _, volume := range list {
		message := volumeMessage(volume)
		if request.GetSize() {
			size := sizeOf(ctx, volume.Mountpoint)
			message.Size = &size
		}
		response.Volumes = append(response.Volumes, message)
	}
	return response, nil
}

// InspectVolume tells all of one volume.
func (s *Volumes) InspectVolume(ctx context.Context, request *berthv1.InspectVolumeRequest) (*berthv1.InspectVolumeResponse, error) {
	volume, err := s.volumes.Inspect(ctx, request.GetName())
	if err != nil {
		return nil, err
	}
	return &berthv1.InspectVolumeResponse{Volume: volumeMessage(volume)}, nil
}

// PruneVolumes is not built yet.
func (s *Volumes) PruneVolumes(context.Context, *berthv1.PruneVolumesRequest) (*berthv1.PruneVolumesResponse, error) {
	return nil, notImplemented("pruning volumes")
}

func volumeMessage(v volumes.Volume) *berthv1.Volume {
	return &berthv1.Volume{
		Name: v.Name, Driver: v.Driver, Options: v.Options, Labels: v.Labels, CreatedAt: timestamppb.New(v.CreatedAt),
		Mountpoint: v.Mountpoint, Anonymous: v.Anonymous, Containers: v.Containers,
	}
}

// sizeOf is the size of a volume's files; 0 if they can't be read.
func sizeOf(ctx context.Context, dir string) int64 {
	size, err := tree.FileUsage(ctx, dir)
	if err != nil {
		return 0
	}
	return size
}
