package portmap

import (
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/cni-plugins/internal/nft"
	"github.com/berthd/berth/cni-plugins/plugin"
)

// config is the plugin's part of a network configuration.
type config struct {
	SNAT    *bool `json:"snat"`
	MasqAll bool  `json:"masqAll"`

	table    nft.Table
	mappings []mapping
}

func (c *config) snat() bool { return c.SNAT == nil || *c.SNAT }

// refused holds the options of the reference plugin that are written in terms of iptables. Its markMasqBit chooses a bit of the
// packet mark, of which ours has no need.
type refused struct {
	Backend              string   `json:"backend"`
	ConditionsV4         []string `json:"conditionsV4"`
	ConditionsV6         []string `json:"conditionsV6"`
	ExternalSetMarkChain string   `json:"externalSetMarkChain"`
}

func (o refused) Check(network string) error {
	switch {
	case o.Backend != "" && o.Backend != "nftables":
		return plugin.Unsupported("network %q: portmap backend %q is not implemented: there is nftables only", network, o.Backend)
	case len(o.ConditionsV4) > 0:
		return plugin.Unsupported("network %q: conditionsV4 is not implemented", network)
	case len(o.ConditionsV6) > 0:
		return plugin.Unsupported("network %q: conditionsV6 is not implemented", network)
	case o.ExternalSetMarkChain != "":
		return plugin.Unsupported("network %q: externalSetMarkChain is not implemented", network)
	}
	return nil
}

// asked is one entry of the capability portMappings.
type asked struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
	// Held is a key of ours: the caller has bound the port, so that no other process can have it.
	Held bool `json:"held"`
}

// mapping is one port to publish.
type mapping struct {
	host      netip.Addr // not valid: on every address of both families
	hostPort  uint16
	inside    uint16
	protocol  byte
	protoName string
	held      bool
}

func parse(r *plugin.Request) (*config, error) {
	conf := &config{}
	if err := r.DecodeSupported(conf, &refused{}); err != nil {
		return nil, err
	}
	var err error
	if conf.table, err = r.Table(); err != nil {
		return nil, err
	}
	var runtime struct {
		PortMappings []asked `json:"portMappings"`
	}
	if err := r.RuntimeConfig(&runtime); err != nil {
		return nil, err
	}
	for _, one := range runtime.PortMappings {
		m, err := one.parse()
		if err != nil {
			return nil, err
		}
		conf.mappings = append(conf.mappings, m)
	}
	return conf, nil
}

func (a asked) parse() (mapping, error) {
	m := mapping{hostPort: uint16(a.HostPort), inside: uint16(a.ContainerPort), protoName: strings.ToLower(a.Protocol), held: a.Held}
	for what, port := range map[string]int{"hostPort": a.HostPort, "containerPort": a.ContainerPort} {
		if port < 1 || port > 65535 {
			return m, plugin.InvalidConfig("%s %d of a port mapping is not within 1 to 65535", what, port)
		}
	}
	switch m.protoName {
	case "tcp", "":
		m.protocol, m.protoName = unix.IPPROTO_TCP, "tcp"
	case "udp":
		m.protocol = unix.IPPROTO_UDP
	case "sctp":
		m.protocol = unix.IPPROTO_SCTP
	default:
		return m, plugin.InvalidConfig("protocol %q of a port mapping is not tcp, udp or sctp", a.Protocol)
	}
	if a.HostIP == "" {
		return m, nil
	}
	host, err := netip.ParseAddr(a.HostIP)
	if err != nil {
		return m, plugin.InvalidConfig("hostIP %q of a port mapping is not an address", a.HostIP)
	}
	m.host = host.Unmap().WithZone("")
	return m, nil
}
