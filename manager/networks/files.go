package networks

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// hostResolvers are the files that tell the host's name servers. Where systemd-resolved runs, the first names only
// its own address, which containers can't reach; the second names the servers behind it.
var hostResolvers = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// publicServers are asked if the host names no server that a container could reach.
var publicServers = []string{"8.8.8.8", "8.8.4.4"}

// Validate checks what can be known of spec before a container starts: its mode, networks, ports and addresses.
func (s *Service) Validate(spec *berthv1.NetworkSpec) error {
	mode, _, err := ParseMode(spec)
	if err != nil {
		return err
	}
	if mode != ModeNetworks && len(spec.GetEndpoints()) > 0 {
		return invalid("the network mode %q can't be combined with networks", spec.GetMode())
	}
	if err := s.validateEndpoints(spec.GetEndpoints()); err != nil {
		return err
	}
	if _, err := publishedPorts(spec, nil); err != nil {
		return err
	}
	for _, server := range spec.GetDnsServers() {
		if _, err := netip.ParseAddr(server); err != nil {
			return invalid("the name server %q is not an address", server)
		}
	}
	for _, text := range slices.Concat(spec.GetDnsSearch(), spec.GetDnsOptions()) {
		if text == "" || strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' }) {
			return invalid("the search domain or resolver option %q is empty or has a space in it", text)
		}
	}
	if err := checkMAC(spec.GetMacAddress()); err != nil {
		return err
	}
	for _, host := range spec.GetExtraHosts() {
		if _, _, err := parseExtraHost(host); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) validateEndpoints(endpoints []*berthv1.Endpoint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, e := range endpoints {
		d, err := s.find(e.GetNetwork())
		if err != nil {
			return err
		}
		if d.Driver != driverBridge {
			return invalid("the network %q can't be combined with others: use the network mode", d.Name)
		}
		if seen[d.Name] {
			return invalid("the network %q is named twice", d.Name)
		}
		seen[d.Name] = true
		if len(e.GetAliases()) > 0 {
			return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("aliases in networks, as %q in network %q, are not implemented", e.GetAliases()[0], d.Name))
		}
		for key := range e.GetDriverOptions() {
			return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("the option %q of the connection to network %q is not implemented", key, d.Name))
		}
		if e.GetIpv6Address() != "" {
			return errdefs.As(errdefs.ErrUnimplemented, errors.New("IPv6 in networks is not implemented"))
		}
		if err := checkMAC(e.GetMacAddress()); err != nil {
			return err
		}
		if text := e.GetIpv4Address(); text != "" {
			address, err := netip.ParseAddr(text)
			if err != nil || !d.Subnet.Contains(address) {
				return invalid("the address %q is none of the subnet %s of network %q", text, d.Subnet, d.Name)
			}
		}
	}
	return nil
}

// checkMAC refuses what is no address of an Ethernet interface; empty stands for one that is chosen.
func checkMAC(text string) error {
	if address, err := net.ParseMAC(text); text != "" && (err != nil || len(address) != 6) {
		return invalid("the MAC address %q is not valid", text)
	}
	return nil
}

// ResolvConf makes a container's /etc/resolv.conf from the host's and spec.
func (s *Service) ResolvConf(spec *berthv1.NetworkSpec) ([]byte, error) {
	mode, _, err := ParseMode(spec)
	if err != nil {
		return nil, err
	}
	if mode == ModeHost && len(spec.GetDnsServers())+len(spec.GetDnsSearch())+len(spec.GetDnsOptions()) == 0 {
		if content, err := os.ReadFile(hostResolvers[0]); err == nil {
			return content, nil // all of it, comments and options that are not known here too
		}
	}
	host, err := readResolvers(mode == ModeHost)
	if err != nil {
		return nil, err
	}
	override := func(wanted, found []string) []string {
		if len(wanted) > 0 {
			return wanted
		}
		return found
	}
	var text bytes.Buffer
	for _, server := range override(spec.GetDnsServers(), host.servers) {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	if search := override(spec.GetDnsSearch(), host.search); len(search) > 0 && !slices.Equal(search, []string{"."}) {
		fmt.Fprintf(&text, "search %s\n", strings.Join(search, " "))
	}
	if options := override(spec.GetDnsOptions(), host.options); len(options) > 0 {
		fmt.Fprintf(&text, "options %s\n", strings.Join(options, " "))
	}
	return text.Bytes(), nil
}

type resolvers struct {
	servers, search, options []string
}

// readResolvers reads the host's. In a network of its own a container can't reach what listens on the host's loopback.
func readResolvers(sharesHost bool) (resolvers, error) {
	var found resolvers
	for _, path := range hostResolvers {
		content, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return found, fmt.Errorf("cannot read the host's name servers: %w", err)
		}
		found = parseResolvers(string(content), sharesHost)
		if len(found.servers) > 0 {
			return found, nil
		}
	}
	found.servers = publicServers
	return found, nil
}

func parseResolvers(content string, sharesHost bool) resolvers {
	var found resolvers
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			address, err := netip.ParseAddr(fields[1])
			if err == nil && (sharesHost || !address.IsLoopback()) {
				found.servers = append(found.servers, fields[1])
			}
		case "search", "domain":
			found.search = fields[1:]
		case "options":
			found.options = fields[1:]
		}
	}
	return found
}

// HostsRequest is what goes into a container's /etc/hosts.
type HostsRequest struct {
	Hostname, Domainname string
	Spec                 *berthv1.NetworkSpec
	Endpoints            []*berthv1.EndpointState
}

const loopbackHosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
	"fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"

// hostsBefore are the lines that a container's /etc/hosts begins with: in the host's network the host's, as Docker does.
func hostsBefore(spec *berthv1.NetworkSpec) string {
	if mode, _, err := ParseMode(spec); err != nil || mode != ModeHost {
		return loopbackHosts
	}
	content, err := os.ReadFile("/etc/hosts")
	if err != nil { // a host without the file has no names to give
		return loopbackHosts
	}
	return strings.TrimSuffix(string(content), "\n") + "\n"
}

// Hosts makes a container's /etc/hosts. It is made anew after each Attach.
func (s *Service) Hosts(request HostsRequest) ([]byte, error) {
	var text bytes.Buffer
	text.WriteString(hostsBefore(request.Spec))
	for _, extra := range request.Spec.GetExtraHosts() {
		name, address, err := parseExtraHost(extra)
		if err != nil {
			return nil, err
		}
		if address == hostGateway {
			if address, err = s.gateway(request.Endpoints); err != nil {
				return nil, fmt.Errorf("cannot add the host %q: %w", name, err)
			}
		}
		fmt.Fprintf(&text, "%s\t%s\n", address, name)
	}
	if request.Hostname == "" {
		return text.Bytes(), nil
	}
	names := request.Hostname
	if request.Domainname != "" {
		names = request.Hostname + "." + request.Domainname + " " + request.Hostname
	}
	for _, e := range request.Endpoints {
		for _, address := range e.GetAddresses() {
			host, _, _ := strings.Cut(address, "/")
			fmt.Fprintf(&text, "%s\t%s\n", host, names)
		}
	}
	return text.Bytes(), nil
}

// hostGateway stands for an address by which the container reaches the host.
const hostGateway = "host-gateway"

func parseExtraHost(text string) (name, address string, err error) {
	// An IPv6 address has colons too, a name has none.
	name, address, found := strings.Cut(text, ":")
	if !found {
		name, address, found = strings.Cut(text, "=")
	}
	address = strings.Trim(address, "[]")
	if _, parseErr := netip.ParseAddr(address); !found || name == "" || strings.ContainsAny(name, " \t\n") || parseErr != nil && address != hostGateway {
		return "", "", invalid("the extra host %q is not valid: want name:address", text)
	}
	return name, address, nil
}

func (s *Service) gateway(endpoints []*berthv1.EndpointState) (string, error) {
	for _, e := range endpoints {
		if len(e.GetGateways()) > 0 {
			return e.GetGateways()[0], nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.networks[defaultNetwork]; d != nil && d.Gateway.IsValid() {
		return d.Gateway.String(), nil
	}
	return "", errdefs.As(errdefs.ErrFailedPrecondition, errors.New("the container has no network with a gateway"))
}
