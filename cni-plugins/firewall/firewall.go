// Package firewall is the CNI plugin of that name: it says who may reach a container of the chain's network by forwarding.
//
//	ingressPolicy   open          everybody
//	                same-bridge   containers of the same bridge: neither others, nor neighbours of the host that route to the address
//	                isolated      no container at all, of the same bridge neither
//	internal        true          nobody: the host forwards nothing from the network or to it (of ours)
//
// A published port stays open to everybody, except in an internal network. The host itself reaches every container.
package firewall

import (
	"context"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthd/berth/cni-plugins/internal/link"
	"github.com/berthd/berth/cni-plugins/internal/nft"
	"github.com/berthd/berth/cni-plugins/plugin"
)

// Plugin returns the plugin.
func Plugin() plugin.Plugin {
	return plugin.Plugin{Name: "firewall", Add: add, Del: del, Check: check, GC: gc, Status: status, Repair: repair}
}

// config is the plugin's part of a network configuration.
type config struct {
	IngressPolicy string `json:"ingressPolicy"`
	Internal      bool   `json:"internal"`

	table nft.Table
}

// refused holds the options of the reference plugin that belong to other firewalls.
type refused struct {
	Backend                string `json:"backend"`
	IptablesAdminChainName string `json:"iptablesAdminChainName"`
	FirewalldZone          string `json:"firewalldZone"`
}

func (o refused) Check(network string) error {
	switch {
	case o.Backend != "" && o.Backend != "nftables":
		return plugin.Unsupported("network %q: firewall backend %q is not implemented: there is nftables only", network, o.Backend)
	case o.IptablesAdminChainName != "":
		return plugin.Unsupported("network %q: iptablesAdminChainName is not implemented: write rules into the nftables chain admin", network)
	case o.FirewalldZone != "":
		return plugin.Unsupported("network %q: firewalldZone is not implemented", network)
	}
	return nil
}

func parse(r *plugin.Request) (*config, error) {
	conf := &config{}
	if err := r.DecodeSupported(conf, &refused{}); err != nil {
		return nil, err
	}
	switch conf.IngressPolicy {
	case "", "open", "same-bridge", "isolated":
	default:
		return nil, plugin.InvalidConfig("network %q: ingressPolicy %q is not open, same-bridge or isolated", r.Common.Name, conf.IngressPolicy)
	}
	var err error
	conf.table, err = r.Table()
	return conf, err
}

// elements are the entries of the container's addresses in the sets that the policy asks for.
func (c *config) elements(r *plugin.Request) ([]nft.Element, error) {
	var sets []string
	if c.Internal {
		sets = append(sets, nft.SetInternal)
	}
	switch c.IngressPolicy {
	case "same-bridge":
		sets = append(sets, nft.SetBridged)
	case "isolated":
		sets = append(sets, nft.SetBridged, nft.SetIsolated)
	}
	if len(sets) == 0 {
		return nil, nil
	}
	var elements []nft.Element
	for _, address := range r.Addresses() {
		towards, err := hostLink(r, address)
		if err != nil {
			return nil, err
		}
		for _, set := range sets {
			elements = append(elements, nft.OnLink(set, address, towards, r.Owner()))
		}
	}
	return elements, nil
}

// hostLink is the bridge that the chain's first plugin reports, or else whatever leads to the address.
func hostLink(r *plugin.Request, address netip.Addr) (string, error) {
	for _, described := range r.Prev.Interfaces {
		if described.Sandbox == "" && link.CheckBridge(described.Name) == nil {
			return described.Name, nil
		}
	}
	return link.Towards(address)
}

func add(_ context.Context, r *plugin.Request) (*types100.Result, error) {
	return r.Prev, enforce(r, nft.Table.Add)
}

func repair(_ context.Context, r *plugin.Request) error { return enforce(r, nft.Table.Restore) }

// enforce makes the policy count for the container.
func enforce(r *plugin.Request, put func(nft.Table, []nft.Element) error) error {
	conf, err := parse(r)
	if err != nil {
		return err
	}
	if err := r.NeedPrev(); err != nil {
		return err
	}
	elements, err := conf.elements(r)
	if err != nil {
		return err
	}
	if conf.IngressPolicy == "isolated" {
		if err := isolate(r); err != nil {
			return err
		}
	}
	return put(conf.table, elements)
}

// isolate keeps the ports of a bridge from each other: what stays on a bridge does not pass the forward hook, unless br_netfilter is on.
func isolate(r *plugin.Request) error {
	for _, described := range r.Prev.Interfaces {
		if described.Sandbox == "" {
			if err := link.IsolatePort(described.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func del(_ context.Context, r *plugin.Request) error { return remove(r, r.Own()) }

func gc(_ context.Context, r *plugin.Request) error { return remove(r, r.Stale()) }

// remove asks of the configuration no more than the table: it must succeed also for what add refuses.
func remove(r *plugin.Request, wanted func(owner string) bool) error {
	table, err := r.Table()
	if err != nil {
		return nil
	}
	return table.RemoveOwned(wanted, nft.SetInternal, nft.SetBridged, nft.SetIsolated)
}

func check(_ context.Context, r *plugin.Request) error {
	conf, err := parse(r)
	if err != nil {
		return err
	}
	if err := r.NeedPrev(); err != nil {
		return err
	}
	elements, err := conf.elements(r)
	if err != nil {
		return err
	}
	return conf.table.Check(elements)
}

func status(_ context.Context, r *plugin.Request) error {
	conf, err := parse(r)
	if err != nil {
		return err
	}
	return conf.table.Usable()
}
