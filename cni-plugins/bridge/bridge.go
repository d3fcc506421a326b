// Package bridge is the CNI plugin of that name: it connects a container to a bridge of the host by a veth pair, makes
// the host its gateway, and masquerades what it sends elsewhere.
//
//	host                                     container
//	berth0 (10.88.0.1/24) ── vethXXXXXXXXXXX ═══ eth0 (10.88.0.2/24, default via 10.88.0.1)
//	nftables: masq4 { 10.88.0.2 . berth0 }
//
// The bridge belongs to the network: it stays when its last container leaves, as that of the reference plugin does.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/berthd/berth/cni-plugins/hostlocal"
	"github.com/berthd/berth/cni-plugins/internal/link"
	"github.com/berthd/berth/cni-plugins/internal/netns"
	"github.com/berthd/berth/cni-plugins/internal/nft"
	"github.com/berthd/berth/cni-plugins/internal/passage"
	"github.com/berthd/berth/cni-plugins/plugin"
	"github.com/berthd/berth/internal/cleanup"
)

// Plugin returns the plugin.
func Plugin() plugin.Plugin {
	return plugin.Plugin{Name: "bridge", Add: add, Del: del, Check: check, GC: gc, Status: status, Repair: repair}
}

// ipam are the plugins for addresses that need not be executed.
func ipam() []plugin.Plugin { return []plugin.Plugin{hostlocal.Plugin()} }

// attachment is one container's end of the network, while it is made or checked.
type attachment struct {
	*config
	request *plugin.Request
	ns      netns.Handle
	bridge  netlink.Link
	// bridgeMAC is the bridge's address if it has to be made; nil: a random one.
	bridgeMAC net.HardwareAddr
	hostName  string // of the veth end that stays here
	result    *types100.Result
}

func add(ctx context.Context, r *plugin.Request) (_ *types100.Result, err error) {
	conf, err := parse(r)
	if err != nil {
		return nil, err
	}
	ns, err := r.OpenNetns()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var undo cleanup.Stack
	defer func() { err = undo.Run(ctx, err) }()

	a := &attachment{config: conf, request: r, ns: ns, hostName: link.HostName(r.Owner())}
	if err := a.allocate(ctx, &undo); err != nil {
		return nil, err
	}
	if err := a.ensureBridge(); err != nil {
		return nil, err
	}
	if conf.IsGateway {
		if err := a.addGateways(); err != nil {
			return nil, err
		}
	}
	if err := a.connect(&undo); err != nil {
		return nil, err
	}
	if err := conf.table.Add(a.masquerading()); err != nil {
		return nil, err
	}
	return a.result, nil
}

// ensureBridge finds the bridge, or makes it and opens it a way through the firewalls of others.
func (a *attachment) ensureBridge() error {
	bridge, made, err := link.EnsureBridge(link.Bridge{Name: a.Bridge, MTU: a.MTU, Promisc: a.PromiscMode, Owner: a.Owner, MAC: a.bridgeMAC})
	if err != nil {
		return err
	}
	a.bridge = bridge
	if !made {
		return nil
	}
	if err := passage.Open(a.Bridge); err != nil {
		// The container has its network all the same, within the host at least.
		fmt.Fprintf(os.Stderr, "the host's firewall may drop what bridge %q forwards: %v\n", a.Bridge, err)
	}
	return nil
}

// allocate gets the addresses from the IPAM plugin. Without one the container is on the link, and no more.
func (a *attachment) allocate(ctx context.Context, undo *cleanup.Stack) error {
	a.result = &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	r := a.request
	if r.Common.IPAM.Type == "" {
		return nil
	}
	result, err := r.Delegate(ctx, ipam(), "ADD")
	if err != nil {
		return err // and no DEL: the address may be that of an earlier ADD of the same attachment
	}
	undo.Add(func(ctx context.Context) error { return releaseAddress(ctx, r) })
	if len(result.IPs) == 0 {
		return fmt.Errorf("the IPAM plugin %q gave no address", r.Common.IPAM.Type)
	}
	for _, ip := range result.IPs {
		ip.Interface = types100.Int(2)
	}
	a.result.IPs, a.result.Routes, a.result.DNS = result.IPs, result.Routes, result.DNS
	if !r.Common.DNS.IsEmpty() {
		a.result.DNS = r.Common.DNS
	}
	a.findGateways()
	return nil
}

// findGateways makes the bridge the gateway of addresses that have none, and the default route lead there.
func (a *attachment) findGateways() {
	if !a.IsGateway {
		return
	}
	for _, ip := range a.result.IPs {
		if ip.Gateway == nil {
			ip.Gateway = firstHost(ip)
		}
		if a.IsDefaultGateway {
			a.addDefaultRoute(ip)
		}
	}
}

func (a *attachment) addDefaultRoute(ip *types100.IPConfig) {
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if ip.Address.IP.To4() == nil {
		everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	for _, route := range a.result.Routes {
		if route.Dst.String() == everywhere.String() {
			return
		}
	}
	a.result.Routes = append(a.result.Routes, &types.Route{Dst: toIPNet(everywhere), GW: ip.Gateway})
}

// masquerading are the entries for the container's addresses.
func (a *attachment) masquerading() []nft.Element {
	if !a.IPMasq {
		return nil
	}
	var elements []nft.Element
	for _, ip := range a.result.IPs {
		elements = append(elements, nft.OnLink(nft.SetMasquerade, toAddr(ip.Address.IP), a.Bridge, a.request.Owner()))
	}
	return elements
}

// del asks little of the configuration: it must succeed also for what add refuses.
func del(ctx context.Context, r *plugin.Request) error {
	return errors.Join(stopMasquerading(r, r.Own()), releaseLink(r), releaseAddress(ctx, r))
}

func stopMasquerading(r *plugin.Request, wanted func(owner string) bool) error {
	table, err := r.Table()
	if err != nil {
		return nil
	}
	return table.RemoveOwned(wanted, nft.SetMasquerade)
}

func releaseLink(r *plugin.Request) error { return link.Delete(link.HostName(r.Owner())) }

func releaseAddress(ctx context.Context, r *plugin.Request) error {
	if r.Common.IPAM.Type == "" {
		return nil
	}
	_, err := r.Delegate(ctx, ipam(), "DEL")
	return err
}

func gc(ctx context.Context, r *plugin.Request) error {
	stale := r.Stale()
	errs := []error{stopMasquerading(r, stale)}
	var links []string
	bridge, err := bridgeOf(r)
	if err == nil {
		links, err = link.Owned(bridge, stale)
	}
	errs = append(errs, err)
	if table, err := r.Table(); err == nil {
		errs = append(errs, table.Renew())
	}
	for _, name := range links {
		errs = append(errs, link.Delete(name))
	}
	if r.Common.IPAM.Type != "" {
		_, err := r.Delegate(ctx, ipam(), "GC")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func status(ctx context.Context, r *plugin.Request) error {
	conf, err := parse(r)
	if err != nil {
		return err
	}
	if err := link.CheckBridge(conf.Bridge); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if conf.IPMasq {
		if err := conf.table.Usable(); err != nil {
			return err
		}
	}
	if r.Common.IPAM.Type == "" {
		return nil
	}
	_, err = r.Delegate(ctx, ipam(), "STATUS")
	return err
}
