package networks

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// port is a published port, in the shape that the capability portMappings of CNI has.
type port struct {
	HostIP        string `json:"hostIP,omitempty"`
	HostPort      uint32 `json:"hostPort"`
	ContainerPort uint32 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	// Held tells the plugin, in a key of ours, that this process has bound the port.
	Held bool `json:"held,omitempty"`
}

func (p port) mapping() *berthv1.PortMapping {
	return &berthv1.PortMapping{HostIp: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: p.Protocol}
}

func (p port) String() string {
	return net.JoinHostPort(cmp.Or(p.HostIP, "0.0.0.0"), strconv.FormatUint(uint64(p.HostPort), 10)) + "/" + p.Protocol
}

// publishedPorts are those that were asked for, and with publish_all those exposed ones that were not.
func publishedPorts(spec *berthv1.NetworkSpec, exposed []string) ([]port, error) {
	var published []port
	for _, m := range spec.GetPorts() {
		p := port{HostIP: m.GetHostIp(), HostPort: m.GetHostPort(), ContainerPort: m.GetContainerPort(), Protocol: cmp.Or(m.GetProtocol(), "tcp")}
		if err := p.check(); err != nil {
			return nil, err
		}
		published = append(published, p)
	}
	if !spec.GetPublishAll() {
		return published, nil
	}
	for _, text := range append(slices.Clone(exposed), spec.GetExposedPorts()...) {
		p, err := parseExposed(text)
		if err != nil {
			return nil, err
		}
		same := func(other port) bool { return other.ContainerPort == p.ContainerPort && other.Protocol == p.Protocol }
		if !slices.ContainsFunc(published, same) {
			published = append(published, p)
		}
	}
	return published, nil
}

func parseExposed(text string) (port, error) {
	number, protocol, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return port{}, invalid("the exposed port %q is not valid: want a number as 80 or 80/udp", text)
	}
	p := port{ContainerPort: uint32(n), Protocol: cmp.Or(protocol, "tcp")}
	return p, p.check()
}

func (p port) check() error {
	if p.ContainerPort == 0 || p.ContainerPort > 65535 {
		return invalid("the container port %d is not valid: want 1 to 65535", p.ContainerPort)
	}
	if p.HostPort > 65535 {
		return invalid("the host port %d is not valid: want 1 to 65535, or 0 for a free one", p.HostPort)
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, p.Protocol) {
		return invalid("the protocol %q of port %d is not known: want tcp, udp or sctp", p.Protocol, p.ContainerPort)
	}
	if p.HostIP == "" {
		return nil
	}
	address, err := netip.ParseAddr(p.HostIP)
	if err != nil {
		return invalid("the host address %q of port %d is not valid", p.HostIP, p.ContainerPort)
	}
	if !address.Unmap().Is4() {
		return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("publishing ports on IPv6 addresses as %s is not implemented", p.HostIP))
	}
	return nil
}

// ports holds the host ports of containers, so that nobody else can take them: packets to them never arrive at a
// socket, as a rule sends them to the container before.
type ports struct {
	mu    sync.Mutex
	held  map[string][]int // file descriptors, by container
	count int              // of all descriptors
	most  int              // that may be held: berthd needs some for everything else
}

func newPorts() *ports {
	most := 256
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		most = int(min(limit.Cur/4, 1<<16))
	}
	return &ports{held: map[string][]int{}, most: most}
}

// hold takes the host ports, and says which of them is taken, or returns them with free ones where none was asked for. Ports beyond
// the most that can be held are only tried: a process of the host can take them then, which the rules keep from getting anything.
func (p *ports) hold(containerID string, wanted []port) (chosen []port, err error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	chosen = slices.Clone(wanted)
	var sockets []int
	for i := range chosen {
		socket, number, err := bind(chosen[i])
		if err != nil {
			closeAll(sockets)
			return nil, err
		}
		chosen[i].HostPort, chosen[i].Held = number, false
		switch {
		case socket < 0:
		case p.count+len(sockets) >= p.most:
			_ = unix.Close(socket)
		default:
			sockets = append(sockets, socket)
			chosen[i].Held = true
		}
	}
	p.held[containerID] = append(p.held[containerID], sockets...)
	p.count += len(sockets)
	return chosen, nil
}

func (p *ports) release(containerID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	closeAll(p.held[containerID])
	p.count -= len(p.held[containerID])
	delete(p.held, containerID)
}

func (p *ports) releaseAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sockets := range p.held {
		closeAll(sockets)
	}
	clear(p.held)
	p.count = 0
}

func closeAll(sockets []int) {
	for _, socket := range sockets {
		_ = unix.Close(socket)
	}
}

// bind takes one port with a socket that does not listen. It is not opened with SO_REUSEADDR, as a server's would be:
// such a server could then listen on the port all the same. But then connections that ended a minute ago are in the
// way; if nothing else is, a socket with SO_REUSEADDR that listens is as good.
func bind(p port) (socket int, number uint32, err error) {
	kind := map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}[p.Protocol]
	if kind == 0 {
		if p.HostPort == 0 {
			return -1, 0, invalid("port %d/%s needs a host port: one is only chosen for tcp and udp", p.ContainerPort, p.Protocol)
		}
		return -1, p.HostPort, nil // not every kernel has the protocol
	}
	address := &unix.SockaddrInet4{Port: int(p.HostPort)}
	if p.HostIP != "" {
		address.Addr = netip.MustParseAddr(p.HostIP).Unmap().As4()
	}
	socket, err = bindSocket(kind, address, false)
	if errors.Is(err, unix.EADDRINUSE) && p.Protocol == "tcp" && p.HostPort != 0 {
		socket, err = bindSocket(kind, address, true)
	}
	if err != nil {
		return -1, 0, bindError(p, err)
	}
	bound, err := unix.Getsockname(socket)
	if err != nil {
		_ = unix.Close(socket)
		return -1, 0, os.NewSyscallError("getsockname", err)
	}
	if inet, ok := bound.(*unix.SockaddrInet4); ok {
		number = uint32(inet.Port)
	}
	return socket, number, nil
}

func bindSocket(kind int, address unix.Sockaddr, listen bool) (socket int, err error) {
	socket, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if listen {
		err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(socket, address)
	}
	if err == nil && listen {
		err = unix.Listen(socket, 0)
	}
	if err != nil {
		_ = unix.Close(socket)
		return -1, err
	}
	return socket, nil
}

func bindError(p port, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot publish port %d/%s: the host port %s is taken", p.ContainerPort, p.Protocol, p))
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return invalid("cannot publish port %d/%s: this host does not have the address %s", p.ContainerPort, p.Protocol, p.HostIP)
	}
	return fmt.Errorf("cannot publish port %d/%s on the host port %s: %w", p.ContainerPort, p.Protocol, p, err)
}
