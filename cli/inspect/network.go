package inspect

import (
	"net/netip"
	"strconv"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// NetworkSettings are a container's connections in use. The addresses at the top are those of the first network.
type NetworkSettings struct {
	Ports       map[string][]PortBinding
	IPAddress   string
	IPPrefixLen int
	Gateway     string
	MacAddress  string
	Networks    map[string]EndpointSettings
}

// PortBinding is where on the host a port is published.
type PortBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

// EndpointSettings is a container's place in one network.
type EndpointSettings struct {
	Aliases             []string
	NetworkID           string
	Interface           string
	MacAddress          string
	Gateway             string
	IPAddress           string
	IPPrefixLen         int
	IPv6Gateway         string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
}

func newNetworkSettings(c *berthv1.Container) NetworkSettings {
	settings := NetworkSettings{Ports: map[string][]PortBinding{}, Networks: map[string]EndpointSettings{}}
	for _, port := range c.GetExposedPorts() {
		settings.Ports[port] = nil
	}
	for _, port := range c.GetPorts() {
		ip := port.GetHostIp()
		if ip == "" {
			ip = "0.0.0.0"
		}
		key := portKey(port)
		settings.Ports[key] = append(settings.Ports[key], PortBinding{HostIP: ip, HostPort: strconv.FormatUint(uint64(port.GetHostPort()), 10)})
	}
	for i, endpoint := range c.GetEndpoints() {
		network := newEndpoint(endpoint)
		settings.Networks[endpoint.GetConfig().GetNetwork()] = network
		if i == 0 {
			settings.IPAddress, settings.IPPrefixLen = network.IPAddress, network.IPPrefixLen
			settings.Gateway, settings.MacAddress = network.Gateway, network.MacAddress
		}
	}
	return settings
}

func newEndpoint(state *berthv1.EndpointState) EndpointSettings {
	settings := EndpointSettings{
		Aliases: state.GetConfig().GetAliases(), NetworkID: state.GetNetworkId(), Interface: state.GetInterface(), MacAddress: state.GetMacAddress(),
	}
	for _, text := range state.GetAddresses() {
		prefix, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
		case prefix.Addr().Is4():
			settings.IPAddress, settings.IPPrefixLen = prefix.Addr().String(), prefix.Bits()
		default:
			settings.GlobalIPv6Address, settings.GlobalIPv6PrefixLen = prefix.Addr().String(), prefix.Bits()
		}
	}
	for _, text := range state.GetGateways() {
		switch gateway, err := netip.ParseAddr(text); {
		case err != nil:
		case gateway.Is4():
			settings.Gateway = text
		default:
			settings.IPv6Gateway = text
		}
	}
	return settings
}

// NetworkDocument is docker's document of a network.
type NetworkDocument struct {
	Name       string
	ID         string `json:"Id"`
	Created    string
	Driver     string
	EnableIPv6 bool
	IPAM       IPAM
	Internal   bool
	Attachable bool
	Containers map[string]Member
	Options    map[string]string
	Labels     map[string]string
}

// IPAM are a network's addresses.
type IPAM struct {
	Config []Subnet
}

// Subnet of a network.
type Subnet struct {
	Subnet  string
	IPRange string `json:",omitempty"`
	Gateway string `json:",omitempty"`
}

// Member is a container in a network.
type Member struct {
	MacAddress  string
	IPv4Address string
	IPv6Address string
}

// NewNetwork returns the document of a network.
func NewNetwork(n *berthv1.Network) NetworkDocument {
	config := n.GetConfig()
	document := NetworkDocument{
		Name: config.GetName(), ID: n.GetId(), Created: stamp(n.GetCreatedAt()), Driver: config.GetDriver(), EnableIPv6: config.GetIpv6(),
		Internal: config.GetInternal(), Attachable: config.GetAttachable(), Options: config.GetOptions(), Labels: config.GetLabels(),
		IPAM: IPAM{Config: []Subnet{}}, Containers: map[string]Member{},
	}
	for _, subnet := range config.GetSubnets() {
		document.IPAM.Config = append(document.IPAM.Config, Subnet{subnet.GetCidr(), subnet.GetRange(), subnet.GetGateway()})
	}
	for id, endpoint := range n.GetEndpoints() {
		settings := newEndpoint(endpoint)
		member := Member{MacAddress: settings.MacAddress}
		if settings.IPAddress != "" {
			member.IPv4Address = settings.IPAddress + "/" + strconv.Itoa(settings.IPPrefixLen)
		}
		if settings.GlobalIPv6Address != "" {
			member.IPv6Address = settings.GlobalIPv6Address + "/" + strconv.Itoa(settings.GlobalIPv6PrefixLen)
		}
		document.Containers[id] = member
	}
	return document
}
