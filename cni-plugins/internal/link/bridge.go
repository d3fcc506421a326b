package link

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// Bridge describes a bridge to be made unless it is there.
type Bridge struct {
	Name    string
	MTU     int // 0: the kernel's
	Promisc bool
	MAC     net.HardwareAddr // nil: a random one
	// Owner names the daemon that makes the bridge; empty: a CNI caller.
	Owner string
}

// madePrefix begins the alias of every bridge that berth made, and `ip link` shows it. Only such bridges are ever deleted.
const madePrefix = "made by berth"

func (b Bridge) alias() string {
	if b.Owner == "" {
		return madePrefix
	}
	return madePrefix + "d " + b.Owner
}

// EnsureBridge returns the bridge, made and set up if need be, and whether it was made.
func EnsureBridge(b Bridge) (bridge netlink.Link, made bool, err error) {
	bridge, err = netlink.LinkByName(b.Name)
	if err != nil && isGone(err) {
		if made, err = createBridge(b); err == nil {
			bridge, err = netlink.LinkByName(b.Name)
		}
	}
	if err != nil {
		return nil, made, fmt.Errorf("cannot create bridge %q: %w", b.Name, err)
	}
	if err := b.check(bridge); err != nil {
		return nil, made, err
	}
	if b.Promisc {
		if err := netlink.SetPromiscOn(bridge); err != nil {
			return nil, made, fmt.Errorf("cannot make bridge %q promiscuous: %w", b.Name, err)
		}
	}
	if bridge.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(bridge); err != nil {
			return nil, made, fmt.Errorf("cannot set bridge %q up: %w", b.Name, err)
		}
	}
	return bridge, made, nil
}

func notBridge(link netlink.Link) error {
	return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("link %q exists and is a %s, not a bridge", link.Attrs().Name, link.Type()))
}

// createBridge makes the bridge with a random address of its own: a bridge without one takes that of a port, and changes it as
// ports come and go, to the surprise of every neighbour's ARP cache.
func createBridge(b Bridge) (made bool, err error) {
	mac := b.MAC
	if mac == nil {
		mac = make(net.HardwareAddr, 6)
		if _, err := rand.Read(mac); err != nil {
			return false, err
		}
		mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = b.Name, mac, b.MTU
	err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	if errors.Is(err, unix.EEXIST) { // another attachment was quicker
		return false, nil
	}
	if err != nil {
		return false, err
	}
	created, err := netlink.LinkByName(b.Name)
	if err == nil {
		err = netlink.LinkSetAlias(created, b.alias())
	}
	if err != nil {
		return true, err
	}
	// Otherwise the first router advertisement from a container would configure the host.
	return true, SetSysctl("net/ipv6/conf/"+b.Name+"/accept_ra", "0")
}

// CheckOwner fails if a daemon can't use the bridge: the link is something else, or was made by another daemon. A bridge of the
// host's administrator may be used, and so may one that does not exist.
func CheckOwner(b Bridge) error {
	found, err := netlink.LinkByName(b.Name)
	if err != nil && isGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot find link %q: %w", b.Name, err)
	}
	return b.check(found)
}

// check fails if a link is no bridge, or if a daemon wants it and another one made it: they would give out the same addresses. A CNI
// caller shares what it finds.
func (b Bridge) check(found netlink.Link) error {
	if found.Type() != "bridge" {
		return notBridge(found)
	}
	alias := found.Attrs().Alias
	if b.Owner != "" && strings.HasPrefix(alias, madePrefix) && alias != b.alias() {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("bridge %q was %s, not by this one", b.Name, alias))
	}
	return nil
}

// ForeignBridge returns the first IPv4 address, with its network, of a bridge that berth did not make.
func ForeignBridge(name string) (netip.Prefix, error) {
	found, err := netlink.LinkByName(name)
	if err != nil && isGone(err) {
		return netip.Prefix{}, nil
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("cannot find bridge %q: %w", name, err)
	}
	if strings.HasPrefix(found.Attrs().Alias, madePrefix) {
		return netip.Prefix{}, nil
	}
	present, err := addresses(found, netlink.FAMILY_V4)
	if err != nil || len(present) == 0 {
		return netip.Prefix{}, err
	}
	return netip.ParsePrefix(present[0].IPNet.String())
}

// DeleteBridge removes a bridge that berth made and that has no ports, and runs before just before that. Any other link of the name is
// left alone: it is somebody else's, or containers of another daemon are on it.
func DeleteBridge(name string, before func()) error {
	found, err := netlink.LinkByName(name)
	if err != nil && isGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot find bridge %q: %w", name, err)
	}
	if found.Type() != "bridge" || !strings.HasPrefix(found.Attrs().Alias, madePrefix) {
		return nil
	}
	ports, err := Owned(name, func(string) bool { return true })
	if err != nil || len(ports) > 0 {
		return err
	}
	before()
	if err := netlink.LinkDel(found); err != nil && !isGone(err) {
		return fmt.Errorf("cannot delete bridge %q: %w", name, err)
	}
	return nil
}

// CheckBridge fails if the bridge is missing (fs.ErrNotExist), is something else, or lacks one of the addresses.
func CheckBridge(name string, gateways ...*net.IPNet) error {
	bridge, err := netlink.LinkByName(name)
	if err != nil && isGone(err) {
		return errdefs.As(fs.ErrNotExist, fmt.Errorf("bridge %q is missing", name))
	}
	if err != nil {
		return fmt.Errorf("cannot find bridge %q: %w", name, err)
	}
	if bridge.Type() != "bridge" {
		return notBridge(bridge)
	}
	present, err := Addresses(bridge)
	if err != nil {
		return fmt.Errorf("cannot list the addresses of bridge %q: %w", name, err)
	}
	for _, gateway := range gateways {
		if !hasAddress(present, gateway) {
			return failed("bridge %q has lost the gateway's address %s", name, gateway)
		}
	}
	return nil
}

// CheckPort fails unless the link is up, on the bridge, and has the hardware address.
func CheckPort(name, bridge, mac string) error {
	port, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find veth %q: %w", name, err)
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("cannot find bridge %q: %w", bridge, err)
	}
	if port.Attrs().MasterIndex != master.Attrs().Index {
		return failed("veth %q is not on bridge %q", name, bridge)
	}
	if port.Attrs().Flags&net.FlagUp == 0 {
		return failed("veth %q is down", name)
	}
	return checkMAC(port, mac)
}

func checkMAC(of netlink.Link, wanted string) error {
	if got := of.Attrs().HardwareAddr.String(); wanted != "" && got != wanted {
		return failed("link %q has the hardware address %s, not %s", of.Attrs().Name, got, wanted)
	}
	return nil
}

// Exists tells whether there is a link of that name.
func Exists(name string) bool {
	_, err := netlink.LinkByName(name)
	return err == nil
}

// EnsureGateway gives the bridge the address of a gateway. Another address of the same family is replaced if force, and
// an error if its network overlaps.
func EnsureGateway(bridge netlink.Link, gateway *net.IPNet, force bool) error {
	name := bridge.Attrs().Name
	family := netlink.FAMILY_V4
	if gateway.IP.To4() == nil {
		family = netlink.FAMILY_V6
	}
	present, err := addresses(bridge, family)
	if err != nil {
		return fmt.Errorf("cannot list the addresses of bridge %q: %w", name, err)
	}
	for _, address := range present {
		if address.IPNet.String() == gateway.String() {
			return nil
		}
		overlaps := address.Contains(gateway.IP) || gateway.Contains(address.IP)
		if family == netlink.FAMILY_V6 && !overlaps {
			continue
		}
		if !force {
			return errdefs.As(errdefs.ErrFailedPrecondition,
				fmt.Errorf("bridge %q already has the address %s, not %s: remove it, or set forceAddress", name, address.IPNet, gateway))
		}
		if err := netlink.AddrDel(bridge, &address); err != nil && !isGone(err) {
			return fmt.Errorf("cannot remove address %s of bridge %q: %w", address.IPNet, name, err)
		}
	}
	if err := AddAddress(bridge, gateway, false); err != nil {
		return err
	}
	// As in createBridge, for a bridge that somebody else made.
	if err := netlink.LinkSetHardwareAddr(bridge, bridge.Attrs().HardwareAddr); err != nil {
		return fmt.Errorf("cannot fix the hardware address of bridge %q: %w", name, err)
	}
	return nil
}

// AddAddress adds an address. An IPv6 address skips duplicate address detection unless dad: it is ours, and waiting costs over a second.
func AddAddress(on netlink.Link, address *net.IPNet, dad bool) error {
	added := &netlink.Addr{IPNet: address}
	if address.IP.To4() == nil && !dad {
		added.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(on, added); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot add address %s to link %q: %w", address, on.Attrs().Name, err)
	}
	return nil
}

// addresses lists the addresses of a link, again if the kernel says that the list changed under way.
func addresses(of netlink.Link, family int) ([]netlink.Addr, error) {
	for {
		list, err := netlink.AddrList(of, family)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
}

// Addresses lists the addresses of a link, both families.
func Addresses(of netlink.Link) ([]netlink.Addr, error) {
	return addresses(of, netlink.FAMILY_ALL)
}
