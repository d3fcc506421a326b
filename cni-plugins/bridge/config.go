package bridge

import (
	"net"

	"github.com/berthd/berth/cni-plugins/internal/nft"
	"github.com/berthd/berth/cni-plugins/plugin"
)

// config is the plugin's part of a network configuration.
type config struct {
	Bridge           string `json:"bridge"`
	IsGateway        bool   `json:"isGateway"`
	IsDefaultGateway bool   `json:"isDefaultGateway"`
	ForceAddress     bool   `json:"forceAddress"`
	IPMasq           bool   `json:"ipMasq"`
	MTU              int    `json:"mtu"`
	HairpinMode      bool   `json:"hairpinMode"`
	PromiscMode      bool   `json:"promiscMode"`
	EnableDAD        bool   `json:"enabledad"`
	PortIsolation    bool   `json:"portIsolation"`
	StayDown         bool   `json:"disableContainerInterface"`
	// Owner is a key of ours: the ID of the daemon whose bridge it is.
	Owner string `json:"bridgeOwner"`

	table nft.Table
	mac   net.HardwareAddr
}

// refused holds the options of the reference plugin that are not offered.
type refused struct {
	IPMasqBackend string `json:"ipMasqBackend"`
	Vlan          int    `json:"vlan"`
	VlanTrunk     []any  `json:"vlanTrunk"`
	MacSpoofChk   bool   `json:"macspoofchk"`
}

func (o refused) Check(network string) error {
	if o.IPMasqBackend != "" && o.IPMasqBackend != "nftables" {
		return plugin.Unsupported("network %q: ipMasqBackend %q is not implemented: there is nftables only", network, o.IPMasqBackend)
	}
	for name, set := range map[string]bool{
		"vlan": o.Vlan != 0, "vlanTrunk": len(o.VlanTrunk) > 0, "macspoofchk": o.MacSpoofChk,
	} {
		if set {
			return plugin.Unsupported("network %q: %s is not implemented", network, name)
		}
	}
	return nil
}

const defaultBridge = "cni0"

// bridgeOf is the name of the bridge alone, also of a configuration that parse refuses.
func bridgeOf(r *plugin.Request) (string, error) {
	conf := struct {
		Bridge string `json:"bridge"`
	}{Bridge: defaultBridge}
	err := r.Decode(&conf)
	return conf.Bridge, err
}

func parse(r *plugin.Request) (*config, error) {
	conf := &config{Bridge: defaultBridge}
	if err := r.DecodeSupported(conf, &refused{}); err != nil {
		return nil, err
	}
	if len(conf.Bridge) == 0 || len(conf.Bridge) > 15 {
		return nil, plugin.InvalidConfig("network %q: bridge %q is not a name of 1 to 15 bytes", r.Common.Name, conf.Bridge)
	}
	if conf.MTU < 0 || conf.MTU > 65535 {
		return nil, plugin.InvalidConfig("network %q: mtu %d is out of range", r.Common.Name, conf.MTU)
	}
	if conf.HairpinMode && conf.PromiscMode {
		return nil, plugin.InvalidConfig("network %q: hairpinMode and promiscMode exclude each other", r.Common.Name)
	}
	if conf.StayDown && r.Common.IPAM.Type != "" {
		return nil, plugin.InvalidConfig("network %q: disableContainerInterface and ipam exclude each other", r.Common.Name)
	}
	conf.IsGateway = conf.IsGateway || conf.IsDefaultGateway
	var err error
	if conf.table, err = r.Table(); err != nil {
		return nil, err
	}
	conf.mac, err = wantedMAC(r)
	return conf, err
}

// wantedMAC finds the container's hardware address in the three places that CNI has for it: the newest wins.
func wantedMAC(r *plugin.Request) (net.HardwareAddr, error) {
	var runtime struct {
		MAC string `json:"mac"`
	}
	if err := r.RuntimeConfig(&runtime); err != nil {
		return nil, err
	}
	var args struct {
		Args struct {
			CNI struct {
				MAC string `json:"mac"`
			} `json:"cni"`
		} `json:"args"`
	}
	if err := r.Decode(&args); err != nil {
		return nil, err
	}
	for _, text := range append([]string{runtime.MAC, args.Args.CNI.MAC}, r.Arguments("MAC")...) {
		if text == "" {
			continue
		}
		mac, err := net.ParseMAC(text)
		if err != nil || len(mac) != 6 {
			return nil, plugin.InvalidConfig("network %q: %q is not a hardware address", r.Common.Name, text)
		}
		return mac, nil
	}
	return nil, nil
}
