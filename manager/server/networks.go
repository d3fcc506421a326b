package server

import (
	"github.com/berthd/berth/manager/networks"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Networks answers NetworksService.
type Networks struct {
	berthv1.UnimplementedNetworksServiceServer
	networks *networks.Service
}

// NewNetworks makes the service on what keeps the networks.
func NewNetworks(service *networks.Service) *Networks { return &Networks{networks: service} }
