package bridge

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/cni-plugins/internal/link"
	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/internal/errdefs"
)

// addGateways gives the bridge the gateway's addresses and lets the host forward.
func (a *attachment) addGateways() error {
	for _, ip := range a.result.IPs {
		if ip.Gateway == nil { // only in the result of somebody else's ADD
			continue
		}
		forwarding := "net/ipv4/ip_forward"
		if ip.Address.IP.To4() == nil {
			forwarding = "net/ipv6/conf/all/forwarding"
			if err := link.SetSysctl("net/ipv6/conf/"+a.Bridge+"/disable_ipv6", "0"); err != nil {
				return err
			}
		}
		if err := link.EnsureGateway(a.bridge, &net.IPNet{IP: ip.Gateway, Mask: ip.Address.Mask}, a.ForceAddress); err != nil {
			return err
		}
		if err := link.SetSysctl(forwarding, "1"); err != nil {
			return err
		}
	}
	return nil
}

// connect makes the veth pair, with one end on the bridge, and configures the other.
func (a *attachment) connect(undo *cleanup.Stack) error {
	hostMAC := deriveMAC("host", a.request.Owner())
	peerMAC := a.containerMAC()
	err := link.CreatePair(link.Pair{
		Name: a.hostName, Master: a.bridge.Attrs().Index, MTU: a.MTU, MAC: hostMAC,
		Peer: a.request.IfName, PeerNS: a.ns.Fd(), PeerMAC: peerMAC,
	})
	if errors.Is(err, unix.EEXIST) {
		return a.explainExisting()
	}
	if err != nil {
		return err
	}
	undo.Add(func(context.Context) error { return link.Delete(a.hostName) })
	port := link.Port{Alias: a.request.Owner(), Hairpin: a.HairpinMode, Isolated: a.PortIsolation}
	if err := link.SetPort(a.hostName, port); err != nil {
		return err
	}
	container := a.container()
	if err := a.ns.Do(container.Configure); err != nil {
		return err
	}
	a.result.Routes = container.Routes
	// A bridge that somebody else made may have changed its address with this port.
	if err := a.ensureBridge(); err != nil {
		return err
	}
	mtu := a.MTU
	if mtu == 0 {
		mtu = a.bridge.Attrs().MTU
	}
	a.result.Interfaces = []*types100.Interface{
		{Name: a.Bridge, Mac: a.bridge.Attrs().HardwareAddr.String(), Mtu: a.bridge.Attrs().MTU},
		{Name: a.hostName, Mac: hostMAC.String(), Mtu: mtu},
		{Name: a.request.IfName, Mac: peerMAC.String(), Mtu: mtu, Sandbox: a.request.Netns},
	}
	return nil
}

func (a *attachment) container() *link.Container {
	return &link.Container{Name: a.request.IfName, IPs: a.result.IPs, Routes: a.result.Routes, DAD: a.EnableDAD, Down: a.StayDown}
}

// explainExisting says which of the two names is taken.
func (a *attachment) explainExisting() error {
	taken := fmt.Errorf("the container has an interface %q already", a.request.IfName)
	if link.Exists(a.hostName) {
		taken = fmt.Errorf("container %q is attached to network %q by interface %q already", a.request.ContainerID, a.request.Common.Name, a.request.IfName)
	}
	return errdefs.As(errdefs.ErrAlreadyExists, taken)
}

// containerMAC is what was asked for, or else derived from the address: whoever gets an address that had another container before
// gets its hardware address with it, so that what neighbours remember stays true.
func (a *attachment) containerMAC() net.HardwareAddr {
	if a.mac != nil {
		return a.mac
	}
	if len(a.result.IPs) == 0 {
		return deriveMAC("container", a.request.Owner())
	}
	return deriveMAC(a.request.Common.Name, a.result.IPs[0].Address.IP.String())
}

// deriveMAC hashes to a unicast, locally administered address.
func deriveMAC(salt, of string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(salt + " " + of))
	sum[0] = sum[0]&^1 | 2
	return sum[:6]
}

func toAddr(ip net.IP) netip.Addr {
	address, _ := netip.AddrFromSlice(ip) // of 4 or 16 bytes: net parsed it
	return address.Unmap()
}

func toIPNet(prefix netip.Prefix) net.IPNet {
	return net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

func firstHost(ip *types100.IPConfig) net.IP {
	return toAddr(ip.Address.IP.Mask(ip.Address.Mask)).Next().AsSlice()
}
