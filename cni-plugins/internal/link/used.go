package link

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Prefix is a network that the host knows a way to.
type Prefix struct {
	netip.Prefix
	// Link is the interface that it is behind; empty if there is none, as for a route that leads nowhere.
	Link string
	// Routed is set for a network that the host has no address in.
	Routed bool
}

// UsedPrefixes lists the networks of the host's addresses and routes, those of all routing tables. The default route is not among them.
func UsedPrefixes() ([]Prefix, error) {
	names, err := linkNames()
	if err != nil {
		return nil, err
	}
	var used []Prefix
	addresses, err := again(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("cannot list the addresses of this host: %w", err)
	}
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.IPNet.String()); err == nil {
			used = append(used, Prefix{Prefix: prefix.Masked(), Link: names[address.LinkIndex]})
		}
	}
	routes, err := again(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the routes of this host: %w", err)
	}
	for _, route := range routes {
		if route.Dst == nil || route.Type == unix.RTN_LOCAL || route.Type == unix.RTN_BROADCAST || route.Type == unix.RTN_MULTICAST {
			continue // the kernel's own, for addresses that are in the list
		}
		if prefix, err := netip.ParsePrefix(route.Dst.String()); err == nil && prefix.Bits() > 0 {
			used = append(used, Prefix{Prefix: prefix.Masked(), Link: names[route.LinkIndex], Routed: true})
		}
	}
	return used, nil
}

func linkNames() (map[int]string, error) {
	links, err := again(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list the links of this host: %w", err)
	}
	names := map[int]string{}
	for _, found := range links {
		names[found.Attrs().Index] = found.Attrs().Name
	}
	return names, nil
}

// again repeats a list that changed while the kernel told it.
func again[T any](list func() ([]T, error)) ([]T, error) {
	for {
		found, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return found, err
		}
	}
}
