package server

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

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

// CreateNetwork defines a network.
func (s *Networks) CreateNetwork(ctx context.Context, request *berthv1.CreateNetworkRequest) (*berthv1.CreateNetworkResponse, error) {
	id, err := s.networks.Create(ctx, request.GetConfig())
	if err != nil {
		return nil, err
	}
	return &berthv1.CreateNetworkResponse{Id: id}, nil
}

// RemoveNetwork removes a network.
func (s *Networks) RemoveNetwork(ctx context.Context, request *berthv1.RemoveNetworkRequest) (*berthv1.RemoveNetworkResponse, error) {
	return &berthv1.RemoveNetworkResponse{}, s.networks.Remove(ctx, request.GetNetwork())
}

// ListNetworks answers by name.
func (s *Networks) ListNetworks(ctx context.Context, request *berthv1.ListNetworksRequest) (*berthv1.ListNetworksResponse, error) {
	list, err := s.networks.List(ctx, request.GetFilters())
	if err != nil {
		return nil, err
	}
	response := &berthv1.ListNetworksResponse{}
	for _, network := range list {
		response.Networks = append(response.Networks, networkMessage(network))
	}
	return response, nil
}

// InspectNetwork tells all of one network.
func (s *Networks) InspectNetwork(ctx context.Context, request *berthv1.InspectNetworkRequest) (*berthv1.InspectNetworkResponse, error) {
	network, err := s.networks.Inspect(ctx, request.GetNetwork())
	if err != nil {
		return nil, err
	}
	return &berthv1.InspectNetworkResponse{Network: networkMessage(network)}, nil
}

// ConnectNetwork is not built yet.
func (s *Networks) ConnectNetwork(context.Context, *berthv1.ConnectNetworkRequest) (*berthv1.ConnectNetworkResponse, error) {
	return nil, notImplemented("connecting a container to a further network")
}

// DisconnectNetwork is not built yet.
func (s *Networks) DisconnectNetwork(context.Context, *berthv1.DisconnectNetworkRequest) (*berthv1.DisconnectNetworkResponse, error) {
	return nil, notImplemented("disconnecting a container from a network")
}

// PruneNetworks is not built yet.
func (s *Networks) PruneNetworks(context.Context, *berthv1.PruneNetworksRequest) (*berthv1.PruneNetworksResponse, error) {
	return nil, notImplemented("pruning networks")
}

func networkMessage(n networks.Network) *berthv1.Network {
	return &berthv1.Network{
		Id: n.ID, Config: n.Config, CreatedAt: timestamppb.New(n.CreatedAt), Endpoints: n.Endpoints, HostInterface: n.Bridge,
	}
}
