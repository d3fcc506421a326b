package portmap

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/cni-plugins/internal/nft"
	"github.com/berthd/berth/internal/errdefs"
)

// bindable fails if a process of the host has the port, by binding it for a moment without listening. The entry that follows would
// take the port from that process without a word.
func (p published) bindable() error {
	kind := map[byte]int{unix.IPPROTO_TCP: unix.SOCK_STREAM, unix.IPPROTO_UDP: unix.SOCK_DGRAM, unix.IPPROTO_SCTP: unix.SOCK_STREAM}[p.protocol]
	var address unix.Sockaddr = &unix.SockaddrInet4{Port: int(p.hostPort), Addr: as4(p)}
	family := unix.AF_INET
	if p.at.Addr().Is6() {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Port: int(p.hostPort), Addr: p.at.Addr().As16()}
	}
	socket, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, int(p.protocol))
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil // then nobody can have it: the kernel has no SCTP
	}
	if err != nil {
		return fmt.Errorf("cannot try port %s/%s: %w", p.at, p.protoName, err)
	}
	defer func() { _ = unix.Close(socket) }()
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(socket, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if p.protocol == unix.IPPROTO_TCP { // or else connections that ended a minute ago are in the way
		err = errors.Join(err, unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	if err == nil {
		err = unix.Bind(socket, address)
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return p.taken("a process of the host")
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot publish port %s/%s: %s is not an address of this host", p.at, p.protoName, p.at.Addr()))
	case err != nil:
		return fmt.Errorf("cannot publish port %s/%s: %w", p.at, p.protoName, err)
	}
	return nil
}

func as4(p published) [4]byte {
	if p.at.Addr().Is4() {
		return p.at.Addr().As4()
	}
	return [4]byte{}
}

// holder describes an attachment to people.
func holder(owner string) string {
	if parts := strings.Fields(owner); len(parts) == 3 {
		return fmt.Sprintf("container %q of network %q", parts[1], parts[0])
	}
	return fmt.Sprintf("%q", owner)
}

// forgetUDP makes the kernel forget the conversations to UDP ports among the elements: with UDP nothing ends them, and a client
// that goes on sending would reach whoever had the port when it began. A failure is only told: the port works without it, and not
// every kernel can list conversations (CONFIG_NF_CT_NETLINK).
func forgetUDP(elements []nft.Element) {
	filters := map[netlink.InetFamily][]netlink.CustomConntrackFilter{}
	for _, element := range elements {
		protocol, port, ok := element.HostPort()
		if !ok || protocol != unix.IPPROTO_UDP {
			continue
		}
		family := netlink.InetFamily(unix.AF_INET)
		if strings.HasSuffix(element.Set, "6") {
			family = unix.AF_INET6
		}
		filter := &netlink.ConntrackFilter{}
		if errors.Join(filter.AddProtocol(protocol), filter.AddPort(netlink.ConntrackOrigDstPort, port)) == nil {
			filters[family] = append(filters[family], filter)
		}
	}
	for family, list := range filters {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, list...); err != nil && !errors.Is(err, unix.ENOENT) {
			fmt.Fprintf(os.Stderr, "cannot forget conversations with UDP ports, which may go on as they were: %v\n", err)
		}
	}
}
