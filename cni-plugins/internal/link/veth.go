// Package link makes and removes bridges and veth pairs, and gives them addresses, routes and sysctls.
package link

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// Pair describes a veth pair to be made: one end here on a bridge, and its peer in the container.
type Pair struct {
	Name   string // of the end that stays here
	Master int    // index of the bridge
	MTU    int    // 0: the kernel's
	Peer   string // the peer's name
	PeerNS int    // descriptor of the namespace that the peer is born in
	MAC    net.HardwareAddr
	// PeerMAC is the address in the container; nil: the kernel's choice
	PeerMAC net.HardwareAddr
}

// HostName derives the name of the end that stays on the host from the attachment's owner. Del and GC can so find it
// when the container's namespace is long gone.
func HostName(owner string) string {
	sum := sha256.Sum256([]byte(owner))
	return "veth" + hex.EncodeToString(sum[:])[:11]
}

// CreatePair makes the pair by one message: the peer is born in its namespace and this end up and on its bridge. To move a
// finished peer would cost 20 times as much, because the kernel then waits for an RCU grace period.
func CreatePair(p Pair) error {
	request := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Flags, message.Change = unix.IFF_UP, unix.IFF_UP
	request.AddData(message)
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.Name)))
	if p.Master != 0 {
		request.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(p.Master))))
	}
	if p.MTU > 0 {
		request.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(p.MTU))))
	}
	if p.MAC != nil {
		request.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, p.MAC))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.Peer))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(p.PeerNS)))
	if p.MTU > 0 {
		peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(p.MTU)))
	}
	if p.PeerMAC != nil {
		peer.AddRtAttr(unix.IFLA_ADDRESS, p.PeerMAC)
	}
	request.AddData(info)
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		err = fmt.Errorf("cannot create veth pair %q - %q: %w", p.Name, p.Peer, err)
		if errors.Is(err, unix.EEXIST) {
			return errdefs.As(errdefs.ErrAlreadyExists, err)
		}
		return err
	}
	return nil
}

// Delete removes a link. It is fine if there is none.
func Delete(name string) error {
	found, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(found)
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("cannot delete link %q: %w", name, err)
	}
	return nil
}

// isGone tells whether err says that a link, an address or a route is not there.
func isGone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// Port is what a veth end on a bridge has beside its pair.
type Port struct {
	// Alias names the owner of the link, for GC and for people who look at `ip link`.
	Alias             string
	Hairpin, Isolated bool
}

// SetPort sets what the kernel does not take when it makes a link, by one more message.
func SetPort(name string, port Port) error {
	request := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	request.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(port.Alias)))
	if port.Hairpin || port.Isolated {
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
		flags := info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil)
		flags.AddRtAttr(nl.IFLA_BRPORT_MODE, flag(port.Hairpin))
		flags.AddRtAttr(nl.IFLA_BRPORT_ISOLATED, flag(port.Isolated))
		request.AddData(info)
	}
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("cannot set up bridge port %q: %w", name, err)
	}
	return nil
}

// Replug puts a veth end back on its bridge, if it is not there.
func Replug(name string, bridge int, port Port) error {
	found, err := netlink.LinkByName(name)
	if err != nil && isGone(err) {
		return failed("veth %q of the container is gone: only a new start of the container brings it back", name)
	}
	if err == nil && found.Attrs().MasterIndex == bridge && found.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err == nil {
		err = netlink.LinkSetMasterByIndex(found, bridge)
	}
	if err == nil {
		err = netlink.LinkSetUp(found)
	}
	if err != nil {
		return fmt.Errorf("cannot put veth %q back on its bridge: %w", name, err)
	}
	return SetPort(name, port)
}

// IsolatePort keeps a link from reaching other isolated ports of its bridge. A link that is on no bridge is left alone.
func IsolatePort(name string) error {
	port, err := netlink.LinkByName(name)
	if err == nil && port.Attrs().MasterIndex != 0 {
		err = netlink.LinkSetIsolated(port, true)
	}
	if err != nil {
		return fmt.Errorf("cannot isolate bridge port %q: %w", name, err)
	}
	return nil
}

func flag(set bool) []byte {
	if set {
		return []byte{1}
	}
	return []byte{0}
}

// Owned returns the names of the links of a bridge whose alias is wanted; one without alias has an empty one. A bridge that does not exist has none: another
// caller's network may have the same name on another bridge of this host, and its links are not ours to judge.
func Owned(bridge string, wanted func(alias string) bool) ([]string, error) {
	master, err := netlink.LinkByName(bridge)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot find bridge %q: %w", bridge, err)
	}
	links, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) {
		links, err = netlink.LinkList()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list links: %w", err)
	}
	var names []string
	for _, found := range links {
		a := found.Attrs()
		if a.MasterIndex == master.Attrs().Index && wanted(a.Alias) {
			names = append(names, a.Name)
		}
	}
	return names, nil
}
