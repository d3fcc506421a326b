package link

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// Container is what an interface in a container is to have.
type Container struct {
	Name   string
	MAC    string // to be checked; "": whatever it is
	IPs    []*types100.IPConfig
	Routes []*types.Route
	// DAD waits until the kernel has made sure that nobody else has an IPv6 address, which takes over a second.
	DAD bool
	// Down leaves the interface down, for a container that sets it up itself.
	Down bool
}

// Configure gives an interface of the calling thread's namespace its addresses and routes, and sets it up. The addresses come
// first: when the link comes up it announces them to neighbours that remember who had them before. A route that another interface
// has already, as the default route of a container in two networks, stays there and is dropped from Routes.
func (c *Container) Configure() error {
	on, err := netlink.LinkByName(c.Name)
	if err != nil {
		return fmt.Errorf("cannot find interface %q: %w", c.Name, err)
	}
	if err := c.setSysctls(); err != nil {
		return err
	}
	for _, ip := range c.IPs {
		if err := AddAddress(on, &ip.Address, c.DAD); err != nil {
			return err
		}
	}
	if c.Down {
		return nil
	}
	if err := netlink.LinkSetUp(on); err != nil {
		return fmt.Errorf("cannot set interface %q up: %w", c.Name, err)
	}
	if c.DAD && c.hasIPv6() {
		if err := waitForDAD(on); err != nil {
			return err
		}
	}
	return c.addRoutes(on)
}

func (c *Container) hasIPv6() bool {
	for _, ip := range c.IPs {
		if ip.Address.IP.To4() == nil {
			return true
		}
	}
	return false
}

func (c *Container) setSysctls() error {
	settings := [][2]string{{"net/ipv4/conf/" + c.Name + "/arp_notify", "1"}}
	if c.hasIPv6() {
		v6 := "net/ipv6/conf/" + c.Name
		settings = append(settings, [2]string{v6 + "/disable_ipv6", "0"}, [2]string{v6 + "/ndisc_notify", "1"})
		if !c.DAD {
			settings = append(settings, [2]string{v6 + "/accept_dad", "0"})
		}
	}
	for _, s := range settings {
		if err := SetSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

func (c *Container) addRoutes(on netlink.Link) error {
	var kept []*types.Route
	for _, route := range c.Routes {
		err := netlink.RouteAdd(c.route(on, route))
		if errors.Is(err, unix.EEXIST) {
			if c.checkRoute(on, route) != nil {
				continue
			}
			err = nil
		}
		if err != nil {
			return fmt.Errorf("cannot add route to %s via %s on interface %q: %w", &route.Dst, c.gateway(route), c.Name, err)
		}
		kept = append(kept, route)
	}
	c.Routes = kept
	return nil
}

func (c *Container) route(on netlink.Link, route *types.Route) *netlink.Route {
	out := &netlink.Route{
		LinkIndex: on.Attrs().Index, Dst: &route.Dst, Gw: c.gateway(route), MTU: route.MTU, AdvMSS: route.AdvMSS, Priority: route.Priority,
	}
	if route.Table != nil {
		out.Table = *route.Table
	}
	if route.Scope != nil {
		out.Scope = netlink.Scope(*route.Scope)
	} else if out.Gw == nil && route.Dst.IP.To4() != nil {
		out.Scope = netlink.SCOPE_LINK
	}
	return out
}

// gateway is the route's own, or that of the address of its family. A route within the link has none.
func (c *Container) gateway(route *types.Route) net.IP {
	if route.GW != nil {
		return route.GW
	}
	if route.Scope != nil && netlink.Scope(*route.Scope) == netlink.SCOPE_LINK {
		return nil
	}
	for _, ip := range c.IPs {
		if ip.Gateway != nil && (ip.Address.IP.To4() == nil) == (route.Dst.IP.To4() == nil) {
			return ip.Gateway
		}
	}
	return nil
}

// Check fails if something that Configure did is gone.
func (c *Container) Check() error {
	on, err := netlink.LinkByName(c.Name)
	if err != nil {
		return fmt.Errorf("cannot find interface %q: %w", c.Name, err)
	}
	if on.Attrs().Flags&net.FlagUp == 0 && !c.Down {
		return failed("interface %q is down", c.Name)
	}
	if err := checkMAC(on, c.MAC); err != nil {
		return err
	}
	present, err := Addresses(on)
	if err != nil {
		return fmt.Errorf("cannot list the addresses of interface %q: %w", c.Name, err)
	}
	for _, ip := range c.IPs {
		if !hasAddress(present, &ip.Address) {
			return failed("interface %q has lost its address %s", c.Name, &ip.Address)
		}
	}
	for _, route := range c.Routes {
		if err := c.checkRoute(on, route); err != nil {
			return err
		}
	}
	return nil
}

func hasAddress(present []netlink.Addr, wanted *net.IPNet) bool {
	for _, address := range present {
		if address.IPNet.String() == wanted.String() {
			return true
		}
	}
	return false
}

func (c *Container) checkRoute(on netlink.Link, route *types.Route) error {
	family := netlink.FAMILY_V4
	if route.Dst.IP.To4() == nil {
		family = netlink.FAMILY_V6
	}
	wanted := c.route(on, route)
	mask := netlink.RT_FILTER_DST | netlink.RT_FILTER_OIF | netlink.RT_FILTER_GW
	if wanted.Table != 0 {
		mask |= netlink.RT_FILTER_TABLE
	}
	found, err := netlink.RouteListFiltered(family, wanted, mask)
	for errors.Is(err, netlink.ErrDumpInterrupted) {
		found, err = netlink.RouteListFiltered(family, wanted, mask)
	}
	if err != nil {
		return fmt.Errorf("cannot list the routes of interface %q: %w", c.Name, err)
	}
	if len(found) == 0 {
		return failed("the route to %s via %s on interface %q is gone", &route.Dst, wanted.Gw, c.Name)
	}
	return nil
}

// failed is what CHECK answers when the kernel's state is not what it should be.
func failed(format string, args ...any) error {
	return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf(format, args...))
}

const dadTimeout = 10 * time.Second

// waitForDAD waits until no IPv6 address of a link is tentative.
func waitForDAD(on netlink.Link) error {
	updates, done := make(chan netlink.AddrUpdate, 16), make(chan struct{})
	defer close(done)
	if err := netlink.AddrSubscribe(updates, done); err != nil {
		return fmt.Errorf("cannot watch the addresses of interface %q: %w", on.Attrs().Name, err)
	}
	timeout := time.After(dadTimeout)
	for {
		present, err := addresses(on, netlink.FAMILY_V6)
		if err != nil {
			return fmt.Errorf("cannot list the addresses of interface %q: %w", on.Attrs().Name, err)
		}
		pending := false
		for _, address := range present {
			if address.Flags&unix.IFA_F_DADFAILED != 0 {
				return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("address %s is in use by a neighbour of interface %q", address.IPNet, on.Attrs().Name))
			}
			pending = pending || address.Flags&unix.IFA_F_TENTATIVE != 0
		}
		if !pending {
			return nil
		}
		select {
		case <-updates:
		case <-timeout:
			return errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("interface %q has tentative addresses after %v", on.Attrs().Name, dadTimeout))
		}
	}
}
