// Package hostlocal is the CNI plugin host-local: it hands out addresses from ranges and keeps them in files of this host.
package hostlocal

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthd/berth/cni-plugins/plugin"
	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/internal/errdefs"
)

// Plugin returns the plugin.
func Plugin() plugin.Plugin {
	return plugin.Plugin{Name: "host-local", Add: add, Del: del, Check: check, GC: gc, Status: status}
}

func add(ctx context.Context, r *plugin.Request) (_ *types100.Result, err error) {
	conf, err := parse(r)
	if err != nil {
		return nil, err
	}
	dns, err := conf.dns()
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, conf.dir(r), true)
	if err != nil {
		return nil, err
	}
	defer s.close()
	leases, err := s.leases()
	if err != nil {
		return nil, err
	}
	if held := leases.of(r); len(held) > 0 {
		return nil, errdefs.As(errdefs.ErrAlreadyExists,
			fmt.Errorf("container %q already has the address %s for interface %q of network %q", r.ContainerID, held[0], r.IfName, r.Common.Name))
	}
	var undo cleanup.Stack
	defer func() { err = undo.Run(ctx, err) }()

	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, DNS: dns, Routes: conf.Routes}
	wanted := conf.requested
	for i, set := range conf.sets {
		address, in, err := set.pick(&wanted, leases, func() netip.Addr { return s.last(i) })
		if err != nil {
			return nil, fmt.Errorf("%w of network %q", err, r.Common.Name)
		}
		if err := s.reserve(address, owner(r.ContainerID, r.IfName), i); err != nil {
			return nil, err
		}
		undo.Add(func(context.Context) error { return s.release(address) })
		result.IPs = append(result.IPs, in.ipConfig(address))
	}
	if len(wanted) > 0 {
		return nil, plugin.InvalidConfig("cannot give the requested address %s: no range of network %q has it", wanted[0], r.Common.Name)
	}
	return result, nil
}

func (in addressRange) ipConfig(address netip.Addr) *types100.IPConfig {
	config := &types100.IPConfig{Address: net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(in.Subnet.Bits(), address.BitLen())}}
	if in.Gateway.IsValid() {
		config.Gateway = in.Gateway.AsSlice()
	}
	return config
}

// del needs no ranges: what they were when the address was given does not matter.
func del(ctx context.Context, r *plugin.Request) error {
	return release(ctx, r, func(holder string) bool { return owns(r.ContainerID, r.IfName, holder) })
}

func gc(ctx context.Context, r *plugin.Request) error {
	return release(ctx, r, func(holder string) bool {
		return !slices.ContainsFunc(r.Common.ValidAttachments, func(a types.GCAttachment) bool { return owns(a.ContainerID, a.IfName, holder) })
	})
}

func release(ctx context.Context, r *plugin.Request, wanted func(holder string) bool) error {
	conf, err := decode(r)
	if err != nil {
		return err
	}
	s, err := open(ctx, conf.dir(r), false)
	if s == nil || err != nil {
		return err
	}
	defer s.close()
	leases, err := s.leases()
	if err != nil {
		return err
	}
	for address, holder := range leases {
		if wanted(holder) {
			if err := s.release(address); err != nil {
				return err
			}
		}
	}
	return nil
}

func check(ctx context.Context, r *plugin.Request) error {
	conf, err := parse(r)
	if err != nil {
		return err
	}
	s, err := open(ctx, conf.dir(r), false)
	if err != nil {
		return err
	}
	held := leases{}
	if s != nil {
		defer s.close()
		if held, err = s.leases(); err != nil {
			return err
		}
	}
	mine := held.of(r)
	if len(mine) == 0 {
		return errdefs.As(errdefs.ErrFailedPrecondition,
			fmt.Errorf("no address of network %q is reserved for interface %q of container %q", r.Common.Name, r.IfName, r.ContainerID))
	}
	return conf.checkPrev(r, mine)
}

// checkPrev looks for addresses in the result that are from our ranges but not reserved.
func (c *config) checkPrev(r *plugin.Request, mine []netip.Addr) error {
	if r.Prev == nil {
		return nil
	}
	reserved := map[netip.Addr]bool{}
	for _, address := range mine {
		reserved[address] = true
	}
	for _, ip := range r.Prev.IPs {
		address, _ := netip.AddrFromSlice(ip.Address.IP)
		address = address.Unmap()
		for _, set := range c.sets {
			if _, ours := set.find(address); ours && !reserved[address] {
				return errdefs.As(errdefs.ErrFailedPrecondition,
					fmt.Errorf("address %s of container %q is not reserved in network %q", address, r.ContainerID, r.Common.Name))
			}
		}
	}
	return nil
}

// status looks for a free address in every set of ranges.
func status(ctx context.Context, r *plugin.Request) error {
	conf, err := parse(r)
	if err != nil {
		return err
	}
	s, err := open(ctx, conf.dir(r), false)
	if s == nil || err != nil {
		return err
	}
	defer s.close()
	leases, err := s.leases()
	if err != nil {
		return err
	}
	for i, set := range conf.sets {
		if _, _, err := set.pick(nil, leases, func() netip.Addr { return s.last(i) }); err != nil {
			return types.NewError(plugin.ErrUnavailable, fmt.Sprintf("%v of network %q", err, r.Common.Name), "")
		}
	}
	return nil
}

// dns reads the resolver's configuration file that the configuration names.
func (c *config) dns() (types.DNS, error) {
	var dns types.DNS
	if c.ResolvConf == "" {
		return dns, nil
	}
	content, err := os.ReadFile(c.ResolvConf)
	if err != nil {
		return dns, fmt.Errorf("cannot read resolvConf: %w", err)
	}
	for line := range strings.Lines(string(content)) {
		words := strings.Fields(line)
		if len(words) < 2 || strings.HasPrefix(words[0], "#") || strings.HasPrefix(words[0], ";") {
			continue
		}
		switch words[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, words[1])
		case "domain":
			dns.Domain = words[1]
		case "search":
			dns.Search = append(dns.Search, words[1:]...)
		case "options":
			dns.Options = append(dns.Options, words[1:]...)
		}
	}
	return dns, nil
}
