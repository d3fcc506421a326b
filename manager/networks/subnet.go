package networks

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"github.com/berthd/berth/cni-plugins/inprocess"
	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// predefine makes the networks that are always there. The default one is as the flags say now: containers that are
// attached keep what they were attached with.
func (s *Service) predefine() error {
	for _, driver := range []string{driverBridge, driverHost, driverNone} {
		before := s.networks[driver]
		wanted := definition{Name: driver, Driver: driver, Predefined: true, ID: newID(), CreatedAt: time.Now().UTC()}
		if before != nil {
			wanted.ID, wanted.CreatedAt = before.ID, before.CreatedAt
		}
		if driver == driverBridge {
			if err := s.defaultBridge(&wanted, before); err != nil {
				return err
			}
		}
		if before != nil && before.Bridge == wanted.Bridge && before.Subnet == wanted.Subnet && before.Gateway == wanted.Gateway {
			continue
		}
		if err := s.definitions.Put(driver, &wanted); err != nil {
			return err
		}
		s.networks[driver] = &wanted
	}
	return nil
}

// defaultBridge gives the default network its bridge and addresses. Those that can't work are refused: berthd ends at its start rather
// than each container at its own.
func (s *Service) defaultBridge(d, before *definition) error {
	ctx := context.Background()
	d.Bridge = s.cfg.Bridge
	if !validLink(d.Bridge) {
		return invalid("the bridge %q of the default network is not valid: want the name of an interface, of 1 to 15 bytes", d.Bridge)
	}
	if err := s.exec.CheckBridge(ctx, d.Bridge, s.cfg.ID); err != nil {
		return fmt.Errorf("cannot use bridge %q for the default network: %w", d.Bridge, err)
	}
	foreign, err := s.exec.ForeignBridge(ctx, d.Bridge)
	if err != nil {
		return err
	}
	if foreign.IsValid() { // an administrator's, with an address: its network is the default one
		if s.cfg.Subnet.IsValid() && s.cfg.Subnet.Masked() != foreign.Masked() {
			return invalid("the default network can't have the addresses %s: its bridge %q has the address %s", s.cfg.Subnet, d.Bridge, foreign)
		}
		d.Subnet, d.Gateway = foreign.Masked(), foreign.Addr()
		return nil
	}
	unchanged := before != nil && before.Bridge == d.Bridge && before.Subnet.IsValid()
	if unchanged && (!s.cfg.Subnet.IsValid() || s.cfg.Subnet.Masked() == before.Subnet) {
		d.Subnet, d.Gateway = before.Subnet, before.Gateway
		return nil
	}
	others, err := s.otherPrefixes(ctx, d)
	if err != nil {
		return err
	}
	if !s.cfg.Subnet.IsValid() {
		return d.choose(defaultSubnets(), others)
	}
	d.Subnet = s.cfg.Subnet.Masked()
	if d.Subnet.Bits() > 30 {
		return invalid("the addresses %s of the default network have no room for containers", d.Subnet)
	}
	d.Gateway = d.Subnet.Addr().Next()
	if err := d.free(others); err != nil {
		return fmt.Errorf("cannot use the addresses %s for the default network: %w", d.Subnet, err)
	}
	return nil
}

// address gives a network the addresses that were asked for, or some that nothing on the host uses. s.mu is held.
func (s *Service) address(ctx context.Context, d *definition, subnets []*berthv1.Subnet) error {
	if len(subnets) > 1 {
		return errdefs.As(errdefs.ErrUnimplemented, errors.New("networks of several subnets are not implemented"))
	}
	others, err := s.otherPrefixes(ctx, d)
	if err != nil {
		return err
	}
	if len(subnets) == 0 {
		return d.choose(furtherSubnets(), others)
	}
	if err := d.parse(subnets[0]); err != nil {
		return err
	}
	return d.free(others)
}

// choose takes the first candidate that overlaps with nothing, routes of VPNs included.
func (d *definition) choose(candidates iter.Seq[netip.Prefix], others []inprocess.Prefix) error {
	for candidate := range candidates {
		taken := false
		for _, other := range others {
			taken = taken || other.Overlaps(candidate)
		}
		if !taken {
			d.Subnet, d.Gateway = candidate, candidate.Addr().Next()
			return nil
		}
	}
	return errdefs.As(errdefs.ErrResourceExhausted, errors.New("no subnet is left that this host has no address in and no route to: name one"))
}

// free fails if the network's subnet, which somebody asked for, is in use. A route to more than the subnet, as that of a VPN to
// 10.0.0.0/8, is no obstacle: the subnet's own is more specific.
func (d *definition) free(others []inprocess.Prefix) error {
	for _, other := range others {
		if other.Overlaps(d.Subnet) && (!other.Routed || other.Bits() >= d.Subnet.Bits()) {
			return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("the subnet %s overlaps with %s, which this host uses already", d.Subnet, other.Prefix))
		}
	}
	return nil
}

// defaultSubnets are for the default network. They are none that podman (10.88, 10.89), docker (172.17 and up), CRI-O (10.85) or
// Kubernetes (10.96, 10.244) begin with.
func defaultSubnets() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for _, start := range []string{"10.86.0.0/16", "10.82.0.0/16", "10.78.0.0/16", "10.74.0.0/16", "172.30.0.0/16", "192.168.224.0/20"} {
			if !yield(netip.MustParsePrefix(start)) {
				return
			}
		}
	}
}

// furtherSubnets are for networks that users create.
func furtherSubnets() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for _, start := range [][2]byte{{10, 87}, {10, 83}, {172, 31}, {192, 168}} {
			for third := range 256 {
				if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{start[0], start[1], byte(third), 0}), 24)) {
					return
				}
			}
		}
	}
}

// otherPrefixes are those of other networks and of the host, but not those of the network's own bridge.
func (s *Service) otherPrefixes(ctx context.Context, d *definition) ([]inprocess.Prefix, error) {
	host, err := s.exec.UsedPrefixes(ctx)
	if err != nil {
		return nil, err
	}
	var others []inprocess.Prefix
	for _, prefix := range host {
		if prefix.Link != d.Bridge {
			others = append(others, prefix)
		}
	}
	for _, other := range s.networks {
		if other.Subnet.IsValid() && other.Name != d.Name {
			others = append(others, inprocess.Prefix{Prefix: other.Subnet, Link: other.Bridge})
		}
	}
	return others, nil
}

func (d *definition) parse(subnet *berthv1.Subnet) (err error) {
	if d.Subnet, err = netip.ParsePrefix(subnet.GetCidr()); err != nil || d.Subnet != d.Subnet.Masked() {
		return invalid("the subnet %q is not valid: want an address with zeros behind the prefix, as 172.20.0.0/16", subnet.GetCidr())
	}
	if !d.Subnet.Addr().Is4() {
		return errdefs.As(errdefs.ErrUnimplemented, errors.New("IPv6 in networks is not implemented"))
	}
	if d.Subnet.Bits() > 30 {
		return invalid("the subnet %q has no room for containers", subnet.GetCidr())
	}
	d.Gateway = d.Subnet.Addr().Next()
	if text := subnet.GetGateway(); text != "" {
		if d.Gateway, err = netip.ParseAddr(text); err != nil || !d.Subnet.Contains(d.Gateway) {
			return invalid("the gateway %q is no address of the subnet %s", text, d.Subnet)
		}
	}
	if text := subnet.GetRange(); text != "" {
		d.Range, err = netip.ParsePrefix(text)
		if err != nil || !d.Subnet.Contains(d.Range.Addr()) || d.Range.Bits() < d.Subnet.Bits() {
			return invalid("the range %q is no part of the subnet %s", text, d.Subnet)
		}
		d.Range = d.Range.Masked()
	}
	return nil
}
