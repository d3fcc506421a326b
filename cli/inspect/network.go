package inspect

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strconv"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// NetworkSettings are a container's connections in use. The addresses at the top are those of the first network.
type NetworkSettings struct {
	SandboxID   string
	SandboxKey  string
	EndpointID  string
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
	EndpointID          string
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
	settings := NetworkSettings{Ports: map[string][]PortBinding{}, Networks: map[string]EndpointSettings{}, SandboxKey: c.GetNetworkNamespace()}
	if settings.SandboxKey != "" {
		settings.SandboxID = c.GetId() // each container has one network namespace, or another's
	}
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
		network := newEndpoint(c.GetId(), endpoint)
		settings.Networks[endpoint.GetConfig().GetNetwork()] = network
		if i == 0 {
			settings.IPAddress, settings.IPPrefixLen = network.IPAddress, network.IPPrefixLen
			settings.Gateway, settings.MacAddress, settings.EndpointID = network.Gateway, network.MacAddress, network.EndpointID
		}
	}
	return settings
}

// endpointID names a container's place in a network in docker's form. It is made of the two objects that it connects.
func endpointID(container, network string) string {
	sum := sha256.Sum256([]byte(container + "/" + network))
	return hex.EncodeToString(sum[:])
}

func newEndpoint(container string, state *berthv1.EndpointState) EndpointSettings {
	settings := EndpointSettings{
		EndpointID: endpointID(container, state.GetNetworkId()),
		Aliases:    state.GetConfig().GetAliases(), NetworkID: state.GetNetworkId(), Interface: state.GetInterface(), MacAddress: state.GetMacAddress(),
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
	Scope      string
	Driver     string
	EnableIPv4 bool
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
	Driver string
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
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string
	IPv6Address string
}

// NewNetwork returns the document of a network. Names are those of containers, by ID.
func NewNetwork(n *berthv1.Network, names map[string]string) NetworkDocument {
	config := n.GetConfig()
	document := NetworkDocument{
		Name: config.GetName(), ID: n.GetId(), Created: stamp(n.GetCreatedAt()), Driver: config.GetDriver(), Scope: "local",
		EnableIPv4: true, EnableIPv6: config.GetIpv6(),
		Internal: config.GetInternal(), Attachable: config.GetAttachable(), Options: config.GetOptions(), Labels: config.GetLabels(),
		IPAM: IPAM{Driver: "default", Config: []Subnet{}}, Containers: map[string]Member{},
	}
	for _, subnet := range config.GetSubnets() {
		document.IPAM.Config = append(document.IPAM.Config, Subnet{subnet.GetCidr(), subnet.GetRange(), subnet.GetGateway()})
	}
	for id, endpoint := range n.GetEndpoints() {
		settings := newEndpoint(id, endpoint)
		member := Member{Name: names[id], EndpointID: settings.EndpointID, MacAddress: settings.MacAddress}
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
