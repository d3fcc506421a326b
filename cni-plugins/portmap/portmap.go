// Package portmap is the CNI plugin of that name: it publishes ports of a container on addresses of the host. Each is one entry in
// an nftables map (see internal/nft), so that a thousand cost a packet no more than one.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthd/berth/cni-plugins/internal/link"
	"github.com/berthd/berth/cni-plugins/internal/nft"
	"github.com/berthd/berth/cni-plugins/plugin"
	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/internal/errdefs"
)

// Plugin returns the plugin.
func Plugin() plugin.Plugin {
	return plugin.Plugin{Name: "portmap", Add: add, Del: del, Check: check, GC: gc, Status: status, Repair: repair}
}

// published is one entry of a port map with what it came from.
type published struct {
	mapping
	at      netip.AddrPort // on the host
	element nft.Element
}

// publish makes the entries for the container's first address of each family.
func (c *config) publish(r *plugin.Request) ([]published, error) {
	var list []published
	seen := map[string]bool{}
	for _, m := range c.mappings {
		before := len(list)
		for _, container := range firstOfEach(r.Addresses()) {
			at := netip.AddrPortFrom(m.host, m.hostPort)
			if !m.host.IsValid() {
				at = netip.AddrPortFrom(unspecified(container), m.hostPort)
			}
			if at.Addr().Is4() != container.Is4() {
				continue
			}
			element := nft.Port(at, m.protocol, netip.AddrPortFrom(container, m.inside), r.Owner())
			key := element.Set + string(element.Key)
			if seen[key] {
				return nil, plugin.InvalidConfig("port %s/%s is mapped twice", at, m.protoName)
			}
			seen[key] = true
			list = append(list, published{m, at, element})
		}
		if len(list) == before {
			return nil, plugin.InvalidConfig("cannot publish port %d/%s at %s: container %q has no address of that family",
				m.hostPort, m.protoName, m.host, r.ContainerID)
		}
	}
	return list, nil
}

func firstOfEach(addresses []netip.Addr) []netip.Addr {
	var first []netip.Addr
	for _, address := range addresses {
		if len(first) == 0 || len(first) == 1 && first[0].Is4() != address.Is4() {
			first = append(first, address)
		}
	}
	return first
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// elements are the entries of all ports, and those that let the host itself and neighbours of the container come through
// them. The links that lead to the container come back too.
func (c *config) elements(r *plugin.Request, ports []published) (elements []nft.Element, links []string, err error) {
	targets := map[bool]bool{}
	for _, p := range ports {
		elements = append(elements, p.element)
		targets[p.at.Addr().Is4()] = true
	}
	for _, container := range firstOfEach(r.Addresses()) {
		if !targets[container.Is4()] || !c.snat() {
			continue
		}
		towards, err := link.Towards(container)
		if err != nil {
			return nil, nil, err
		}
		elements = append(elements,
			nft.OnLink(nft.SetHairpin, container, towards, r.Owner()), nft.Self(nft.SetSelf, container, r.Owner()))
		if c.MasqAll {
			elements = append(elements, nft.Address(nft.SetMasqueradeAll, container, r.Owner()))
		}
		if container.Is4() {
			links = append(links, towards)
		}
	}
	return elements, links, nil
}

func add(ctx context.Context, r *plugin.Request) (_ *types100.Result, err error) {
	conf, err := parse(r)
	if err != nil {
		return nil, err
	}
	if err := r.NeedPrev(); err != nil {
		return nil, err
	}
	if len(conf.mappings) == 0 {
		return r.Prev, nil
	}
	ports, err := conf.publish(r)
	if err != nil {
		return nil, err
	}
	elements, links, err := conf.elements(r, ports)
	if err != nil {
		return nil, err
	}
	for _, p := range ports {
		if p.held {
			continue
		}
		if err := p.bindable(); err != nil {
			return nil, err
		}
	}
	if err := routeLoopback(links); err != nil {
		return nil, err
	}
	var undo cleanup.Stack
	defer func() { err = undo.Run(ctx, err) }()
	if err := conf.table.Add(elements); err != nil {
		return nil, explain(err, ports)
	}
	undo.Add(func(context.Context) error { return conf.table.Remove(elements) })
	if err := conf.checkShadows(r, ports); err != nil {
		return nil, err
	}
	forgetUDP(elements)
	return r.Prev, nil
}

// routeLoopback lets 127.0.0.1 leave by the links, which the kernel does only on demand. The layout drops what would come in that way.
func routeLoopback(links []string) error {
	for _, name := range links {
		if err := link.SetSysctl("net/ipv4/conf/"+name+"/route_localnet", "1"); err != nil {
			return err
		}
	}
	return nil
}

// expected is what add has left of an attachment: its entries, and the links that lead to it.
func expected(r *plugin.Request) (conf *config, elements []nft.Element, links []string, err error) {
	if conf, err = parse(r); err != nil {
		return nil, nil, nil, err
	}
	if err := r.NeedPrev(); err != nil {
		return nil, nil, nil, err
	}
	ports, err := conf.publish(r)
	if err != nil {
		return nil, nil, nil, err
	}
	elements, links, err = conf.elements(r, ports)
	return conf, elements, links, err
}

// repair puts back the entries of the ports, which nobody else can have taken: they are bound where they were published.
func repair(_ context.Context, r *plugin.Request) error {
	conf, elements, links, err := expected(r)
	if err != nil {
		return err
	}
	if err := routeLoopback(links); err != nil {
		return err
	}
	return conf.table.Restore(elements)
}

// taken is the error for a port that somebody else has, in the words that people search for.
func (p published) taken(by string) error {
	return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("cannot publish port %s/%s: address already in use by %s", p.at, p.protoName, by))
}

// explain names the port that the kernel refused.
func explain(err error, ports []published) error {
	var taken *nft.Taken
	if !errors.As(err, &taken) {
		return err
	}
	for _, p := range ports {
		if p.element.Set == taken.Element.Set && string(p.element.Key) == string(taken.Element.Key) {
			return p.taken(holder(taken.Holder))
		}
	}
	return err
}

// checkShadows finds ports that another attachment published on all addresses, and now come on one of them, or the other way
// round. To look only after adding means that of two that come at once at most one gets through.
func (c *config) checkShadows(r *plugin.Request, ports []published) error {
	for _, p := range ports {
		owners, err := c.table.Shadows(p.element)
		if err != nil {
			return err
		}
		for _, owner := range owners {
			if owner != r.Owner() {
				return p.taken(holder(owner))
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
	found, err := table.Find(wanted, nft.SetPort, nft.SetAnyPort, nft.SetHairpin, nft.SetSelf, nft.SetMasqueradeAll)
	if err != nil {
		return err
	}
	err = table.Remove(found)
	forgetUDP(found)
	return err
}

func check(_ context.Context, r *plugin.Request) error {
	conf, elements, _, err := expected(r)
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
