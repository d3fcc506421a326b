package hostlocal

import (
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/berthd/berth/cni-plugins/plugin"
)

// defaultDataDir is where the reference plugin keeps its reservations too. The files are the same, so that one can take over
// from the other.
const defaultDataDir = "/var/lib/cni/networks"

// config is the "ipam" part of a network configuration.
type config struct {
	Routes     []*types.Route   `json:"routes"`
	DataDir    string           `json:"dataDir"`
	ResolvConf string           `json:"resolvConf"`
	Ranges     [][]addressRange `json:"ranges"`
	// addressRange is the form from before there could be several.
	addressRange

	sets      []rangeSet
	requested []netip.Addr
}

func decode(r *plugin.Request) (*config, error) {
	var outer struct {
		IPAM *config `json:"ipam"`
	}
	if err := r.Decode(&outer); err != nil {
		return nil, err
	}
	if outer.IPAM == nil {
		return nil, plugin.InvalidConfig("network %q has no ipam", r.Common.Name)
	}
	return outer.IPAM, nil
}

func (c *config) dir(r *plugin.Request) string {
	dataDir := c.DataDir
	if dataDir == "" {
		dataDir = defaultDataDir
	}
	return filepath.Join(dataDir, r.Common.Name)
}

// parse reads and checks the whole configuration, with the ranges and addresses that the runtime asks for.
func parse(r *plugin.Request) (*config, error) {
	conf, err := decode(r)
	if err != nil {
		return nil, err
	}
	var runtime struct {
		IPRanges [][]addressRange `json:"ipRanges"`
	}
	if err := r.RuntimeConfig(&runtime); err != nil {
		return nil, err
	}
	all := runtime.IPRanges
	if conf.Subnet.IsValid() {
		all = append(all, []addressRange{conf.addressRange})
	}
	all = append(all, conf.Ranges...)
	if len(all) == 0 {
		return nil, plugin.InvalidConfig("network %q has no address ranges: set ipam.ranges", r.Common.Name)
	}
	for _, ranges := range all {
		set, err := newRangeSet(ranges)
		if err != nil {
			return nil, plugin.InvalidConfig("network %q: %v", r.Common.Name, err)
		}
		for _, other := range conf.sets {
			if a, b, overlap := set.overlaps(other); overlap {
				return nil, plugin.InvalidConfig("network %q: range %s overlaps with range %s", r.Common.Name, a, b)
			}
		}
		conf.sets = append(conf.sets, set)
	}
	if err := conf.checkVersion(r); err != nil {
		return nil, err
	}
	conf.requested, err = requested(r)
	return conf, err
}

// checkVersion refuses what a result of the oldest versions has no place for.
func (c *config) checkVersion(r *plugin.Request) error {
	if version := r.Common.CNIVersion; version != "0.1.0" && version != "0.2.0" {
		return nil
	}
	families := map[bool]int{}
	for _, set := range c.sets {
		families[set[0].Subnet.Addr().Is4()]++
	}
	if families[true] > 1 || families[false] > 1 {
		return plugin.InvalidConfig("network %q: CNI version %s has no place for two addresses of one family", r.Common.Name, r.Common.CNIVersion)
	}
	return nil
}

// requested collects the addresses that are asked for, in the three ways that CNI has for it.
func requested(r *plugin.Request) ([]netip.Addr, error) {
	var runtime struct {
		IPs []string `json:"ips"`
	}
	if err := r.RuntimeConfig(&runtime); err != nil {
		return nil, err
	}
	var args struct {
		Args struct {
			CNI struct {
				IPs []string `json:"ips"`
			} `json:"cni"`
		} `json:"args"`
	}
	if err := r.Decode(&args); err != nil {
		return nil, err
	}
	var list []netip.Addr
	for _, text := range append(append(r.Arguments("IP"), args.Args.CNI.IPs...), runtime.IPs...) {
		bare, _, _ := strings.Cut(text, "/")
		address, err := netip.ParseAddr(bare)
		if err != nil {
			return nil, plugin.InvalidConfig("cannot parse the requested address %q", text)
		}
		list = append(list, address.Unmap())
	}
	return list, nil
}
