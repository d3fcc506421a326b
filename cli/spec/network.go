package spec

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type networkFlags struct {
	networks   []string
	ip         string
	mac        string
	publish    []string
	publishAll bool
	expose     []string
	dns        []string
	dnsSearch  []string
	dnsOptions []string
	hosts      []string
}

func (f *networkFlags) register(set *pflag.FlagSet) {
	set.StringArrayVar(&f.networks, "network", nil, "Network to connect to: a name, host, none or container:NAME")
	set.StringArrayVar(&f.networks, "net", nil, "Network to connect to")
	_ = set.MarkHidden("net")
	set.StringVar(&f.ip, "ip", "", "IPv4 address in the network")
	set.StringVar(&f.mac, "mac-address", "", "MAC address, as 92:d0:c6:0a:29:33")
	set.StringArrayVarP(&f.publish, "publish", "p", nil, "Publish a port: [[ip:][hostPort]:]containerPort[/protocol]")
	set.BoolVarP(&f.publishAll, "publish-all", "P", false, "Publish all exposed ports to free ports of the host")
	set.StringArrayVar(&f.expose, "expose", nil, "Expose a port or a range of ports, as 8000-8010/tcp")
	set.StringArrayVar(&f.dns, "dns", nil, "DNS server")
	set.StringArrayVar(&f.dnsSearch, "dns-search", nil, "DNS search domain")
	set.StringArrayVar(&f.dnsOptions, "dns-option", nil, "Option of resolv.conf")
	set.StringArrayVar(&f.dnsOptions, "dns-opt", nil, "Option of resolv.conf")
	_ = set.MarkHidden("dns-opt")
	set.StringArrayVar(&f.hosts, "add-host", nil, "Add a line to /etc/hosts: name:address, the address may be host-gateway")
}

func (f *networkFlags) apply(spec *berthv1.ContainerSpec, _ *pflag.FlagSet) error {
	network := spec.Network
	network.PublishAll = f.publishAll
	network.DnsSearch, network.DnsOptions = f.dnsSearch, f.dnsOptions
	for _, text := range f.publish {
		ports, err := parsePublish(text)
		if err != nil {
			return err
		}
		network.Ports = append(network.Ports, ports...)
	}
	for _, text := range f.expose {
		ports, err := parseExpose(text)
		if err != nil {
			return err
		}
		network.ExposedPorts = append(network.ExposedPorts, ports...)
	}
	for _, server := range f.dns {
		if _, err := netip.ParseAddr(server); err != nil {
			return invalid("dns", server, "want an IP address")
		}
		network.DnsServers = append(network.DnsServers, server)
	}
	for _, text := range f.hosts {
		host, err := parseHost(text)
		if err != nil {
			return err
		}
		network.ExtraHosts = append(network.ExtraHosts, host)
	}
	return f.applyEndpoints(network)
}

// parseHost reads the value of --add-host: name:address or name=address, where an IPv6 address may be in brackets.
func parseHost(text string) (string, error) {
	cut := strings.IndexAny(text, ":=")
	if cut <= 0 {
		return "", invalid("add-host", text, "want name:address")
	}
	name, address := text[:cut], strings.TrimSuffix(strings.TrimPrefix(text[cut+1:], "["), "]")
	if address != "host-gateway" {
		if _, err := netip.ParseAddr(address); err != nil {
			return "", invalid("add-host", text, fmt.Sprintf("%q is no IP address", address))
		}
	}
	return name + ":" + address, nil
}

// applyEndpoints decides between the network modes. The single flags (--ip and so on) speak of the first network.
func (f *networkFlags) applyEndpoints(network *berthv1.NetworkSpec) error {
	if f.mac != "" {
		if _, err := net.ParseMAC(f.mac); err != nil {
			return invalid("mac-address", f.mac, "want an address as 92:d0:c6:0a:29:33")
		}
	}
	var endpoints []*berthv1.Endpoint
	for _, text := range f.networks {
		endpoint, err := parseNetwork(text)
		if err != nil {
			return err
		}
		endpoints = append(endpoints, endpoint)
	}
	special := f.ip != "" || f.mac != ""
	if len(endpoints) == 0 && special {
		endpoints = []*berthv1.Endpoint{{Network: "bridge"}}
	}
	if len(endpoints) == 0 {
		return nil
	}
	first := endpoints[0]
	switch name := first.Network; {
	case name == "host" || name == "none" || strings.HasPrefix(name, "container:"):
		if len(endpoints) > 1 {
			return fmt.Errorf("conflicting options: --network %s can't be combined with another network", name)
		}
		if special {
			return fmt.Errorf("conflicting options: --network %s has no addresses of its own", name)
		}
		network.Mode = name
		return nil
	case name == "default":
		first.Network = "bridge"
	}
	if parsed, err := netip.ParseAddr(f.ip); f.ip != "" && (err != nil || !parsed.Is4()) {
		return invalid("ip", f.ip, "want an address of IPv4")
	}
	setIfGiven(&first.Ipv4Address, f.ip)
	setIfGiven(&first.MacAddress, f.mac)
	network.MacAddress = f.mac
	if len(f.networks) == 1 && f.networks[0] == "bridge" && !special {
		return nil // the daemon's default
	}
	network.Mode, network.Endpoints = "networks", endpoints
	return nil
}

func setIfGiven(field *string, value string) {
	if value != "" {
		*field = value
	}
}

// parseNetwork reads a value of --network: a name, or name=…,ip=….
func parseNetwork(text string) (*berthv1.Endpoint, error) {
	if text == "" {
		return nil, invalid("network", text, "want the name of a network")
	}
	if !strings.Contains(text, "=") {
		return &berthv1.Endpoint{Network: text}, nil
	}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return nil, invalid("network", text, "want comma-separated key=value pairs")
	}
	endpoint := &berthv1.Endpoint{}
	for _, field := range fields {
		key, value, _ := strings.Cut(field, "=")
		if err := setNetworkField(endpoint, key, value); err != nil {
			return nil, invalid("network", text, err.Error())
		}
	}
	if endpoint.Network == "" {
		return nil, invalid("network", text, "name=… is missing")
	}
	return endpoint, nil
}

func setNetworkField(endpoint *berthv1.Endpoint, key, value string) error {
	switch key {
	case "name":
		endpoint.Network = value
	case "ip":
		endpoint.Ipv4Address = value
	case "mac-address":
		endpoint.MacAddress = value
	case "alias", "ip6", "driver-opt", "link-local-ip":
		return fmt.Errorf("%s is not implemented", key)
	case "gw-priority":
		_, err := fmt.Sscanf(value, "%d", &endpoint.GatewayPriority)
		if err != nil {
			return errors.New("gw-priority wants a number")
		}
	default:
		return fmt.Errorf("unknown key %q", key)
	}
	return nil
}

// Subnets joins the flags of network create: the ranges and gateways belong to the subnets that contain them.
func Subnets(cidrs, ranges, gateways []string) ([]*berthv1.Subnet, error) {
	var subnets []*berthv1.Subnet
	prefixes := make([]netip.Prefix, len(cidrs))
	for i, cidr := range cidrs {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, invalid("subnet", cidr, "want an address and the length of its prefix, as 10.1.0.0/16")
		}
		prefixes[i] = prefix
		subnets = append(subnets, &berthv1.Subnet{Cidr: cidr})
	}
	owner := func(flag, text string, address netip.Addr) (*berthv1.Subnet, error) {
		for i, prefix := range prefixes {
			if prefix.Contains(address) {
				return subnets[i], nil
			}
		}
		return nil, invalid(flag, text, "it is in none of the subnets given with --subnet")
	}
	for _, text := range ranges {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, invalid("ip-range", text, "want an address and the length of its prefix, as 10.1.2.0/24")
		}
		subnet, err := owner("ip-range", text, prefix.Addr())
		if err != nil {
			return nil, err
		}
		subnet.Range = text
	}
	for _, text := range gateways {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, invalid("gateway", text, "want an address")
		}
		subnet, err := owner("gateway", text, address)
		if err != nil {
			return nil, err
		}
		subnet.Gateway = text
	}
	return subnets, nil
}
