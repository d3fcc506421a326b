package networks

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/filter"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// The drivers of networks. Those of the predefined networks host and none have their name.
const (
	driverBridge = "bridge"
	driverHost   = "host"
	driverNone   = "none"
)

// defaultNetwork is the one that containers get which name none.
const defaultNetwork = "bridge"

// definition is what is durable of a network.
type definition struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Driver     string            `json:"driver"`
	Bridge     string            `json:"bridge,omitempty"`
	Subnet     netip.Prefix      `json:"subnet"`
	Range      netip.Prefix      `json:"range"`
	Gateway    netip.Addr        `json:"gateway"`
	Internal   bool              `json:"internal,omitempty"`
	Attachable bool              `json:"attachable,omitempty"`
	Options    map[string]string `json:"options,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	CreatedAt  time.Time         `json:"createdAt"`
	Predefined bool              `json:"predefined,omitempty"`
}

// Network is a network with the containers in it.
type Network struct {
	ID         string
	Config     *berthv1.NetworkConfig
	CreatedAt  time.Time
	Bridge     string
	Predefined bool
	Endpoints  map[string]*berthv1.EndpointState
}

func newID() string {
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// predefine makes the networks that are always there. The default one is as the flags say now: containers that are
// attached keep what they were attached with.
func (s *Service) predefine() error {
	for _, driver := range []string{driverBridge, driverHost, driverNone} {
		wanted := definition{Name: driver, Driver: driver, Predefined: true}
		if driver == driverBridge {
			subnet := s.cfg.Subnet.Masked()
			wanted.Bridge, wanted.Subnet, wanted.Gateway = s.cfg.Bridge, subnet, subnet.Addr().Next()
		}
		wanted.ID, wanted.CreatedAt = newID(), time.Now().UTC()
		if before := s.networks[driver]; before != nil {
			wanted.ID, wanted.CreatedAt = before.ID, before.CreatedAt
			if before.Bridge == wanted.Bridge && before.Subnet == wanted.Subnet {
				continue
			}
		}
		if err := s.definitions.Put(driver, &wanted); err != nil {
			return err
		}
		s.networks[driver] = &wanted
	}
	return nil
}

// plugins returns the chain of CNI plugins that makes the network. The network's range is for addresses that nobody
// asks for; one that is asked for may lie anywhere in the subnet.
func (s *Service) plugins(d *definition, askedFor string) (*libcni.NetworkConfigList, []byte, error) {
	ipamRange := map[string]any{"subnet": d.Subnet.String(), "gateway": d.Gateway.String()}
	if d.Range.IsValid() && askedFor == "" {
		ipamRange["rangeStart"], ipamRange["rangeEnd"] = d.Range.Addr().String(), last(d.Range).String()
	}
	bridge := map[string]any{
		"type": "bridge", "bridge": d.Bridge, "isGateway": true, "isDefaultGateway": !d.Internal, "ipMasq": !d.Internal, "hairpinMode": true,
		"nftTable": s.cfg.Table, "capabilities": map[string]bool{"ips": true, "mac": true},
		"ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(s.cfg.StateDir, "addresses"), "ranges": [][]any{{ipamRange}},
		},
	}
	config := map[string]any{"cniVersion": "1.1.0", "name": d.cniName(), "plugins": []any{
		bridge,
		map[string]any{"type": "portmap", "snat": true, "capabilities": map[string]bool{"portMappings": true}, "nftTable": s.cfg.Table},
		map[string]any{"type": "firewall", "ingressPolicy": "same-bridge", "internal": d.Internal, "nftTable": s.cfg.Table},
	}}
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, nil, err
	}
	list, err := libcni.NetworkConfFromBytes(raw)
	return list, raw, err
}

// cniName is the network's name for CNI. The plugins' interfaces are the host's: what they own must not look like that
// of another daemon's network, and no two have one bridge.
func (d *definition) cniName() string { return "berth-" + d.Bridge }

// leases is the directory where host-local keeps the addresses that are in use.
func (s *Service) leases(d *definition) string {
	return filepath.Join(s.cfg.StateDir, "addresses", d.cniName())
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for i := p.Bits(); i < len(bytes)*8; i++ {
		bytes[i/8] |= 1 << (7 - i%8)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// find looks up a network by name, ID or prefix of an ID. s.mu is held.
func (s *Service) find(ref string) (*definition, error) {
	if d := s.networks[ref]; d != nil {
		return d, nil
	}
	var match *definition
	for _, d := range s.networks {
		if ref == "" || !strings.HasPrefix(d.ID, ref) {
			continue
		}
		if match != nil {
			return nil, invalid("%q is the beginning of more than one network ID", ref)
		}
		match = d
	}
	if match == nil {
		return nil, errdefs.As(errdefs.ErrNotFound, fmt.Errorf("no such network: %q", ref))
	}
	return match, nil
}

var networkName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

// Create defines a network. Its bridge is made for the first container in it.
func (s *Service) Create(_ context.Context, config *berthv1.NetworkConfig) (id string, err error) {
	if !networkName.MatchString(config.GetName()) {
		return "", invalid("the network name %q is not valid: want letters, digits, '_', '.' and '-', at most 64", config.GetName())
	}
	if driver := cmp.Or(config.GetDriver(), driverBridge); driver != driverBridge {
		return "", errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("the network driver %q is not implemented", driver))
	}
	if config.GetIpv6() {
		return "", errdefs.As(errdefs.ErrUnimplemented, errors.New("IPv6 in networks is not implemented"))
	}
	d := &definition{
		ID: newID(), Name: config.GetName(), Driver: driverBridge, Internal: config.GetInternal(), Attachable: config.GetAttachable(),
		Options: config.GetOptions(), Labels: config.GetLabels(), CreatedAt: time.Now().UTC(),
	}
	d.Bridge = "br-" + d.ID[:12]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.networks[d.Name] != nil || d.Name == "container" || d.Name == "networks" {
		return "", errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("a network with the name %q is there already", d.Name))
	}
	if err := s.address(d, config.GetSubnets()); err != nil {
		return "", fmt.Errorf("cannot create network %q: %w", d.Name, err)
	}
	if err := s.definitions.Put(d.Name, d); err != nil {
		return "", err
	}
	s.networks[d.Name] = d
	s.cfg.Logger.Info("network created", "network", d.Name, "id", d.ID, "subnet", d.Subnet.String())
	return d.ID, nil
}

// address gives a network the addresses that were asked for, or some that nothing on the host uses.
func (s *Service) address(d *definition, subnets []*berthv1.Subnet) error {
	if len(subnets) > 1 {
		return errdefs.As(errdefs.ErrUnimplemented, errors.New("networks of several subnets are not implemented"))
	}
	used, err := s.usedPrefixes()
	if err != nil {
		return err
	}
	if len(subnets) == 0 {
		for third := range 256 {
			candidate := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 89, byte(third), 0}), 24)
			if !slices.ContainsFunc(used, candidate.Overlaps) {
				d.Subnet, d.Gateway = candidate, candidate.Addr().Next()
				return nil
			}
		}
		return errdefs.As(errdefs.ErrResourceExhausted, errors.New("all subnets of 10.89.0.0/16 are in use: name one with --subnet"))
	}
	if err := d.parse(subnets[0]); err != nil {
		return err
	}
	if i := slices.IndexFunc(used, d.Subnet.Overlaps); i >= 0 {
		return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("the subnet %s overlaps with %s, which this host uses already", d.Subnet, used[i]))
	}
	return nil
}

func (d *definition) parse(subnet *berthv1.Subnet) (err error) {
	if d.Subnet, err = netip.ParsePrefix(subnet.GetCidr()); err != nil || d.Subnet != d.Subnet.Masked() {
		return invalid("the subnet %q is not valid: want an address with zeros behind the prefix, as 172.20.0.0/16", subnet.GetCidr())
	}
	if !d.Subnet.Addr().Is4() {
		return errdefs.As(errdefs.ErrUnimplemented, errors.New("IPv6 in networks is not implemented"))
	}
	if d.Subnet.Bits() > 30 {
		return invalid("the subnet %q has no room for containers", subnet.GetCidr())
	}
	d.Gateway = d.Subnet.Addr().Next()
	if text := subnet.GetGateway(); text != "" {
		if d.Gateway, err = netip.ParseAddr(text); err != nil || !d.Subnet.Contains(d.Gateway) {
			return invalid("the gateway %q is no address of the subnet %s", text, d.Subnet)
		}
	}
	if text := subnet.GetRange(); text != "" {
		d.Range, err = netip.ParsePrefix(text)
		if err != nil || !d.Subnet.Contains(d.Range.Addr()) || d.Range.Bits() < d.Subnet.Bits() {
			return invalid("the range %q is no part of the subnet %s", text, d.Subnet)
		}
		d.Range = d.Range.Masked()
	}
	return nil
}

// usedPrefixes are those of other networks and of the host's interfaces. s.mu is held.
func (s *Service) usedPrefixes() ([]netip.Prefix, error) {
	var used []netip.Prefix
	for _, d := range s.networks {
		if d.Subnet.IsValid() {
			used = append(used, d.Subnet)
		}
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("cannot list the addresses of this host: %w", err)
	}
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil {
			used = append(used, prefix.Masked())
		}
	}
	return used, nil
}

// Remove removes a network without containers.
func (s *Service) Remove(ctx context.Context, ref string) error {
	s.links.Lock()
	defer s.links.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.find(ref)
	if err != nil {
		return err
	}
	if d.Predefined {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot remove network %q: it is predefined", d.Name))
	}
	for id, a := range s.attached {
		if slices.ContainsFunc(a.Endpoints, func(e endpoint) bool { return e.Network == d.Name }) {
			return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot remove network %q: container %.12s is connected to it", d.Name, id))
		}
	}
	if err := s.exec.DeleteBridge(ctx, d.Bridge); err != nil {
		return fmt.Errorf("cannot remove the bridge of network %q: %w", d.Name, err)
	}
	if err := os.RemoveAll(s.leases(d)); err != nil {
		return fmt.Errorf("cannot remove the leases of network %q: %w", d.Name, err)
	}
	if err := s.definitions.Delete(d.Name); err != nil {
		return err
	}
	delete(s.networks, d.Name)
	s.cfg.Logger.Info("network removed", "network", d.Name, "id", d.ID)
	return nil
}

// Inspect tells all of one network.
func (s *Service) Inspect(_ context.Context, ref string) (Network, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.find(ref)
	if err != nil {
		return Network{}, err
	}
	return s.network(d), nil
}

func (s *Service) network(d *definition) Network {
	n := Network{
		ID: d.ID, CreatedAt: d.CreatedAt, Bridge: d.Bridge, Predefined: d.Predefined, Endpoints: map[string]*berthv1.EndpointState{},
		Config: &berthv1.NetworkConfig{
			Name: d.Name, Driver: d.Driver, Options: d.Options, Labels: d.Labels, Internal: d.Internal, Attachable: d.Attachable,
		},
	}
	if d.Subnet.IsValid() {
		subnet := &berthv1.Subnet{Cidr: d.Subnet.String(), Gateway: d.Gateway.String()}
		if d.Range.IsValid() {
			subnet.Range = d.Range.String()
		}
		n.Config.Subnets = []*berthv1.Subnet{subnet}
	}
	for id, a := range s.attached {
		for _, e := range a.Endpoints {
			if e.Network == d.Name {
				n.Endpoints[id] = e.state()
			}
		}
	}
	return n
}

// List answers the networks that fit all filters, by name.
func (s *Service) List(_ context.Context, filters []*berthv1.Filter) ([]Network, error) {
	fits, err := filter.Parse("networks", filters, map[string]filter.Key[Network]{
		"id":       filter.Prefix(func(n Network) string { return n.ID }),
		"name":     filter.Matches(func(n Network) []string { return []string{n.Config.GetName()} }),
		"driver":   filter.Equals(func(n Network) string { return n.Config.GetDriver() }),
		"scope":    filter.Equals(func(Network) string { return "local" }),
		"type":     filter.Equals(typeOf, "builtin", "custom"),
		"dangling": filter.Bool(func(n Network) bool { return len(n.Endpoints) == 0 && !n.Predefined }),
		"label":    filter.Label(func(n Network) map[string]string { return n.Config.GetLabels() }),
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Network
	for _, d := range s.networks {
		if n := s.network(d); fits(n) {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b Network) int { return cmp.Compare(a.Config.GetName(), b.Config.GetName()) })
	return list, nil
}

// typeOf is Docker's word for who made a network.
func typeOf(n Network) string {
	if n.Predefined {
		return "builtin"
	}
	return "custom"
}
