package networks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthd/berth/internal/cleanup"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Attach connects a container that is not connected; for one that is, it answers how. On an error nothing is left.
func (s *Service) Attach(ctx context.Context, request Request) (_ Result, err error) {
	mode, _, err := ParseMode(request.Spec)
	if err != nil || mode != ModeNetworks {
		return Result{}, err
	}
	unlock, err := s.busy.Lock(ctx, request.ContainerID)
	if err != nil {
		return Result{}, fmt.Errorf("cannot connect container %.12s: %w", request.ContainerID, err)
	}
	defer unlock()
	if before := s.attachment(request.ContainerID); before != nil {
		if before.Netns == request.NetnsPath && s.intact(ctx, request.ContainerID, before) {
			return before.result(), nil
		}
		if err := s.detach(ctx, request.ContainerID, before); err != nil {
			return Result{}, err
		}
	}
	a, err := s.plan(request)
	if err != nil {
		return Result{}, fmt.Errorf("cannot connect container %.12s: %w", request.ContainerID, err)
	}
	if err := s.attach(ctx, request.ContainerID, a); err != nil {
		return Result{}, err
	}
	return a.result(), nil
}

func (s *Service) attachment(containerID string) *attachment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attached[containerID]
}

// intact tells whether the container really has its interfaces. The path of a namespace says nothing: an attachment that could not be
// undone may be that of an earlier namespace at the same path.
func (s *Service) intact(ctx context.Context, containerID string, a *attachment) bool {
	for _, e := range a.Endpoints {
		list, conf, err := call(containerID, a, e)
		if err != nil || s.cni.CheckNetworkList(ctx, list, conf) != nil {
			return false
		}
	}
	return true
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
	var binding string
	for i, e := range wanted {
		d, err := s.find(e.GetNetwork())
		if err != nil {
			return nil, err
		}
		if i == 0 {
			binding = d.options().hostBinding
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
	for i := range a.Ports {
		a.Ports[i].HostIP = cmp.Or(a.Ports[i].HostIP, binding)
	}
	return a, err
}

// attach does what is planned, and undoes it if it fails.
func (s *Service) attach(ctx context.Context, containerID string, a *attachment) (err error) {
	leave, err := s.enter(a.Endpoints)
	if err != nil {
		return fmt.Errorf("cannot connect container %.12s: %w", containerID, err)
	}
	defer leave()
	var undo cleanup.Stack
	defer func() { err = undo.Run(ctx, err) }()
	done := *a
	done.Endpoints = slices.Clone(a.Endpoints)
	// The ports are held before any rule leads to them: two containers that start at once never get the same one.
	if done.Ports, err = s.ports.hold(containerID, a.Ports); err != nil {
		return err
	}
	undo.Add(func(context.Context) error { s.ports.release(containerID); return nil })
	for i := range done.Endpoints {
		e := &done.Endpoints[i]
		undo.Add(func(ctx context.Context) error { return s.unplug(ctx, containerID, &done, *e) })
		if err := s.plug(ctx, containerID, &done, e); err != nil {
			return fmt.Errorf("cannot connect container %.12s to network %q: %w", containerID, e.Network, err)
		}
	}
	if err := s.save(containerID, &done); err != nil {
		return err
	}
	*a = done
	s.publishEndpoints("connect", containerID, a)
	return nil
}

func (s *Service) publishEndpoints(action, containerID string, a *attachment) {
	if a.assumed {
		return
	}
	for _, e := range a.Endpoints {
		s.publish(action, &definition{ID: e.NetworkID, Name: e.Network, Driver: driverBridge}, map[string]string{"container": containerID})
	}
}

// call is what libcni needs to call an endpoint's plugins.
func call(containerID string, a *attachment, e endpoint) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := libcni.NetworkConfFromBytes(e.Plugins)
	if err != nil {
		return nil, nil, err
	}
	conf, err := runtimeConf(containerID, a, e)
	return list, conf, err
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
		if err := checkMAC(mac); err != nil {
			return nil, err
		}
		conf.CapabilityArgs["mac"] = mac
	}
	return conf, nil
}

func (s *Service) plug(ctx context.Context, containerID string, a *attachment, e *endpoint) error {
	list, conf, err := call(containerID, a, *e)
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
	unlock, err := s.busy.Lock(ctx, containerID)
	if err != nil {
		return fmt.Errorf("cannot disconnect container %.12s: %w", containerID, err)
	}
	defer unlock()
	if a := s.attachment(containerID); a != nil {
		return s.detach(ctx, containerID, a)
	}
	return nil
}

func (s *Service) detach(ctx context.Context, containerID string, a *attachment) error {
	leave, err := s.enter(a.Endpoints)
	if err != nil {
		return fmt.Errorf("cannot disconnect container %.12s: %w", containerID, err)
	}
	defer leave()
	var errs []error
	for _, e := range slices.Backward(a.Endpoints) {
		errs = append(errs, s.unplug(ctx, containerID, a, e))
	}
	// The rules are gone, or else the ports are still theirs.
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.ports.release(containerID)
	if err := s.forget(containerID); err != nil {
		return err
	}
	s.publishEndpoints("disconnect", containerID, a)
	return nil
}

// GC detaches every container that is not in valid, holds again the host ports of those that are, and lets the
// plugins remove what they know of nobody. From then on what others do to the host's network is put right. Call it once at start,
// before any Attach.
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
		if _, err := s.ports.hold(id, a.Ports); err != nil {
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
	errs = append(errs, s.removeIdle(ctx))
	s.watch.begin(s)
	return errors.Join(errs...)
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
