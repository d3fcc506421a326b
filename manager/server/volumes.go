package server

import (
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
