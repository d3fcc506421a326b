package bridge

import (
	"context"
	"fmt"
	"net"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthd/berth/cni-plugins/internal/link"
	"github.com/berthd/berth/cni-plugins/plugin"
	"github.com/berthd/berth/internal/errdefs"
)

func check(ctx context.Context, r *plugin.Request) error {
	conf, err := parse(r)
	if err != nil {
		return err
	}
	if r.Prev == nil {
		return plugin.InvalidConfig("CHECK of network %q needs a prevResult", r.Common.Name)
	}
	if r.Common.IPAM.Type != "" {
		if _, err := r.Delegate(ctx, ipam(), "CHECK"); err != nil {
			return err
		}
	}
	ns, err := r.OpenNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	a := &attachment{config: conf, request: r, ns: ns, hostName: link.HostName(r.Owner()), result: ownPart(r)}
	if err := a.checkHost(); err != nil {
		return err
	}
	container := a.container()
	container.MAC = a.describedMAC(r.IfName)
	if err := ns.Do(container.Check); err != nil {
		return err
	}
	return conf.table.Check(a.masquerading())
}

// ownPart is what the result says about the request's interface. The rest comes from other plugins of the chain.
func ownPart(r *plugin.Request) *types100.Result {
	part := &types100.Result{Interfaces: r.Prev.Interfaces, Routes: r.Prev.Routes}
	for _, ip := range r.Prev.IPs {
		index := ip.Interface
		if index == nil || *index < 0 || *index >= len(r.Prev.Interfaces) || r.Prev.Interfaces[*index].Name == r.IfName {
			part.IPs = append(part.IPs, ip)
		}
	}
	return part
}

func (a *attachment) checkHost() error {
	var gateways []*net.IPNet
	if a.IsGateway {
		for _, ip := range a.result.IPs {
			if ip.Gateway != nil {
				gateways = append(gateways, &net.IPNet{IP: ip.Gateway, Mask: ip.Address.Mask})
			}
		}
	}
	if err := link.CheckBridge(a.Bridge, gateways...); err != nil {
		return err
	}
	if err := link.CheckPort(a.hostName, a.Bridge, a.describedMAC(a.hostName)); err != nil {
		return err
	}
	for _, described := range a.result.Interfaces {
		if described.Name == a.request.IfName && described.Sandbox != "" {
			return nil
		}
	}
	return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("prevResult has no interface %q in a container", a.request.IfName))
}

// describedMAC is the hardware address that the result gives an interface.
func (a *attachment) describedMAC(name string) string {
	for _, described := range a.result.Interfaces {
		if described.Name == name {
			return described.Mac
		}
	}
	return ""
}
