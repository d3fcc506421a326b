package networks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// claim makes the caller the only one that works on a container's attachment.
func (s *Service) claim(containerID string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[containerID] {
		return nil, errdefs.As(errdefs.ErrAborted, errors.New("it is being connected or disconnected by another call"))
	}
	s.busy[containerID] = true
	return func() {
		s.mu.Lock()
		delete(s.busy, containerID)
		s.mu.Unlock()
	}, nil
}

// Attach connects a container that is not connected; for one that is, it answers how. On an error nothing is left.
func (s *Service) Attach(ctx context.Context, request Request) (_ Result, err error) {
	mode, _, err := ParseMode(request.Spec)
	if err != nil || mode != ModeNetworks {
		return Result{}, err
	}
	release, err := s.claim(request.ContainerID)
	if err != nil {
		return Result{}, fmt.Errorf("cannot connect container %.12s: %w", request.ContainerID, err)
	}
	defer release()
	s.mu.Lock()
	before := s.attached[request.ContainerID]
	s.mu.Unlock()
	if before != nil && before.Netns == request.NetnsPath {
		return before.result(), nil
	}
	if before != nil {
		if err := s.detach(ctx, request.ContainerID, before); err != nil {
			return Result{}, err
		}
	}
	a, err := s.plan(request)
	if err != nil {
		return Result{}, fmt.Errorf("cannot connect container %.12s: %w", request.ContainerID, err)
	}
	if err := s.attach(ctx, request, a); err != nil {
		return Result{}, err
	}
	return a.result(), nil
}

// plan finds the networks that a container goes to, and gives its interfaces names.
func (s *Service) plan(request Request) (*attachment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &attachment{Netns: request.NetnsPath}
	wanted := request.Spec.GetEndpoints()
	if len(wanted) == 0 {
		wanted = []*berthv1.Endpoint{{Network: defaultNetwork, MacAddress: request.Spec.GetMacAddress()}}
	}
	// The first interface gives the default route.
	wanted = slices.SortedStableFunc(slices.Values(wanted), func(a, b *berthv1.Endpoint) int {
		return int(b.GetGatewayPriority()) - int(a.GetGatewayPriority())
	})
	for i, e := range wanted {
		d, err := s.find(e.GetNetwork())
		if err != nil {
			return nil, err
		}
		_, raw, err := s.plugins(d, e.GetIpv4Address())
		if err != nil {
			return nil, fmt.Errorf("cannot configure network %q: %w", d.Name, err)
		}
		a.Endpoints = append(a.Endpoints, endpoint{
			Network: d.Name, NetworkID: d.ID, Interface: fmt.Sprintf("eth%d", i), Plugins: raw, Requested: e,
		})
	}
	var err error
	a.Ports, err = publishedPorts(request.Spec, request.ExposedPorts)
	return a, err
}

// attach does what is planned, and undoes it if it fails.
func (s *Service) attach(ctx context.Context, request Request, a *attachment) (err error) {
	s.links.RLock()
	defer s.links.RUnlock()
	var undo cleanup.Stack
	defer func() { err = undo.Run(ctx, err) }()
	if a.Ports, err = s.ports.choose(a.Ports); err != nil {
		return err
	}
	done := *a
	done.Endpoints = slices.Clone(a.Endpoints)
	for i := range done.Endpoints {
		e := &done.Endpoints[i]
		undo.Add(func(ctx context.Context) error { return s.unplug(ctx, request.ContainerID, a, *e) })
		if err := s.plug(ctx, request.ContainerID, &done, e); err != nil {
			return fmt.Errorf("cannot connect container %.12s to network %q: %w", request.ContainerID, e.Network, err)
		}
	}
	if err := s.ports.hold(request.ContainerID, done.Ports); err != nil {
		return err
	}
	undo.Add(func(context.Context) error { s.ports.release(request.ContainerID); return nil })
	if err := s.save(request.ContainerID, &done); err != nil {
		return err
	}
	*a = done
	return nil
}

// runtimeConf is what libcni needs beside the network to call plugins for an endpoint.
func runtimeConf(containerID string, a *attachment, e endpoint) (*libcni.RuntimeConf, error) {
	conf := &libcni.RuntimeConf{
		ContainerID: containerID, NetNS: a.Netns, IfName: e.Interface, CapabilityArgs: map[string]any{},
	}
	if e.Interface == "eth0" && len(a.Ports) > 0 {
		conf.CapabilityArgs["portMappings"] = a.Ports
	}
	if address := e.Requested.GetIpv4Address(); address != "" {
		conf.CapabilityArgs["ips"] = []string{address}
	}
	if mac := e.Requested.GetMacAddress(); mac != "" {
		if _, err := net.ParseMAC(mac); err != nil {
			return nil, invalid("the MAC address %q is not valid", mac)
		}
		conf.CapabilityArgs["mac"] = mac
	}
	return conf, nil
}

func (s *Service) plug(ctx context.Context, containerID string, a *attachment, e *endpoint) error {
	list, err := libcni.NetworkConfFromBytes(e.Plugins)
	if err != nil {
		return err
	}
	conf, err := runtimeConf(containerID, a, *e)
	if err != nil {
		return err
	}
	added, err := s.cni.AddNetworkList(ctx, list, conf)
	if err != nil {
		return err
	}
	result, err := types100.GetResult(added)
	if err != nil {
		return err
	}
	for _, i := range result.Interfaces {
		if i.Sandbox != "" && i.Name == e.Interface {
			e.MAC = i.Mac
		}
	}
	for _, ip := range result.IPs {
		e.Addresses = append(e.Addresses, ip.Address.String())
		if ip.Gateway != nil {
			e.Gateways = append(e.Gateways, ip.Gateway.String())
		}
	}
	return nil
}

// unplug undoes plug, also if that did nothing or only half.
func (s *Service) unplug(ctx context.Context, containerID string, a *attachment, e endpoint) error {
	list, err := libcni.NetworkConfFromBytes(e.Plugins)
	if err != nil {
		return err
	}
	conf, err := runtimeConf(containerID, a, e)
	if err != nil {
		return nil //nolint:nilerr // plug refused it too, before it did anything
	}
	if _, err := os.Stat(conf.NetNS); err != nil {
		conf.NetNS = "" // the namespace is gone, and the interfaces in it: what is outside remains to be removed
	}
	if err := s.cni.DelNetworkList(ctx, list, conf); err != nil {
		return fmt.Errorf("cannot disconnect container %.12s from network %q: %w", containerID, e.Network, err)
	}
	return nil
}

// Detach undoes Attach. It may be called again, and after the namespace is gone.
func (s *Service) Detach(ctx context.Context, containerID string) error {
	release, err := s.claim(containerID)
	if err != nil {
		return fmt.Errorf("cannot disconnect container %.12s: %w", containerID, err)
	}
	defer release()
	s.mu.Lock()
	a := s.attached[containerID]
	s.mu.Unlock()
	if a == nil {
		return nil
	}
	return s.detach(ctx, containerID, a)
}

func (s *Service) detach(ctx context.Context, containerID string, a *attachment) error {
	s.links.RLock()
	defer s.links.RUnlock()
	var errs []error
	for _, e := range slices.Backward(a.Endpoints) {
		errs = append(errs, s.unplug(ctx, containerID, a, e))
	}
	// The rules are gone, or else the ports are still theirs.
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.ports.release(containerID)
	return s.forget(containerID)
}

// GC detaches every container that is not in valid, holds again the host ports of those that are, and lets the
// plugins remove what they know of nobody. Call it once at start, before any Attach.
func (s *Service) GC(ctx context.Context, valid []string) error {
	s.mu.Lock()
	all := maps.Clone(s.attached)
	s.mu.Unlock()
	var errs []error
	keep := map[string][]types.GCAttachment{} // by network
	for id, a := range all {
		if !slices.Contains(valid, id) {
			errs = append(errs, s.Detach(ctx, id))
			continue
		}
		if err := s.ports.hold(id, a.Ports); err != nil {
			// Its rules come first, so it goes on being reached: whoever took the port is not.
			s.cfg.Logger.Warn("a published port was taken while berthd was away", "container", id, "error", err)
		}
		for _, e := range a.Endpoints {
			keep[e.Network] = append(keep[e.Network], types.GCAttachment{ContainerID: id, IfName: e.Interface})
		}
	}
	s.mu.Lock()
	networks := maps.Clone(s.networks)
	s.mu.Unlock()
	for _, d := range networks {
		if d.Driver == driverBridge && s.hasState(d) {
			errs = append(errs, s.gcNetwork(ctx, d, keep[d.Name]))
		}
	}
	return errors.Join(append(errs, s.removeIdle(ctx))...)
}

// hasState tells whether plugins may know anything of a network. Without a lease of an address they do not.
func (s *Service) hasState(d *definition) bool {
	entries, err := os.ReadDir(s.leases(d))
	return err != nil && !errors.Is(err, os.ErrNotExist) ||
		slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.ContainsAny(e.Name(), ".:") })
}

func (s *Service) gcNetwork(ctx context.Context, d *definition, keep []types.GCAttachment) error {
	list, _, err := s.plugins(d, "")
	if err != nil {
		return err
	}
	if err := s.cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: keep}); err != nil {
		return fmt.Errorf("cannot clean up network %q: %w", d.Name, err)
	}
	return nil
}
