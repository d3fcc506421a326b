package networks

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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

// plugins returns the chain of CNI plugins that makes the network. The network's range is for addresses that nobody
// asks for; one that is asked for may lie anywhere in the subnet.
func (s *Service) plugins(d *definition, askedFor string) (*libcni.NetworkConfigList, []byte, error) {
	ipamRange := map[string]any{"subnet": d.Subnet.String(), "gateway": d.Gateway.String()}
	if d.Range.IsValid() && askedFor == "" {
		ipamRange["rangeStart"], ipamRange["rangeEnd"] = d.Range.Addr().String(), last(d.Range).String()
	}
	options := d.options()
	bridge := map[string]any{
		"type": "bridge", "bridge": d.Bridge, "bridgeOwner": s.cfg.ID, "isGateway": true, "isDefaultGateway": !d.Internal,
		"ipMasq": !d.Internal && options.masquerade, "mtu": options.mtu, "hairpinMode": true,
		"nftTable": s.cfg.Table, "capabilities": map[string]bool{"ips": true, "mac": true},
		"ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(s.cfg.StateDir, "addresses"), "ranges": [][]any{{ipamRange}},
		},
	}
	config := map[string]any{"cniVersion": "1.1.0", "name": d.cniName(), "plugins": []any{
		bridge,
		map[string]any{"type": "portmap", "snat": true, "capabilities": map[string]bool{"portMappings": true}, "nftTable": s.cfg.Table},
		map[string]any{"type": "firewall", "ingressPolicy": options.policy(), "internal": d.Internal, "nftTable": s.cfg.Table},
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
func (s *Service) Create(ctx context.Context, config *berthv1.NetworkConfig) (id string, err error) {
	if !networkName.MatchString(config.GetName()) {
		return "", invalid("the network name %q is not valid: want letters, digits, '_', '.' and '-', at most 64", config.GetName())
	}
	if driver := cmp.Or(config.GetDriver(), driverBridge); driver != driverBridge {
		return "", errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("the network driver %q is not implemented", driver))
	}
	if config.GetIpv6() {
		return "", errdefs.As(errdefs.ErrUnimplemented, errors.New("IPv6 in networks is not implemented"))
	}
	options, err := parseOptions(config.GetOptions())
	if err != nil {
		return "", fmt.Errorf("cannot create network %q: %w", config.GetName(), err)
	}
	d := &definition{
		ID: newID(), Name: config.GetName(), Driver: driverBridge, Internal: config.GetInternal(), Attachable: config.GetAttachable(),
		Options: config.GetOptions(), Labels: config.GetLabels(), CreatedAt: time.Now().UTC(),
	}
	d.Bridge = cmp.Or(options.bridge, "br-"+d.ID[:12])
	if err := s.exec.CheckBridge(ctx, d.Bridge, s.cfg.ID); err != nil {
		return "", fmt.Errorf("cannot create network %q: %w", d.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.networks[d.Name] != nil || d.Name == "container" || d.Name == "networks" {
		return "", errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("a network with the name %q is there already", d.Name))
	}
	for _, other := range s.networks {
		if other.Bridge == d.Bridge {
			return "", errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("cannot create network %q: network %q has the bridge %q", d.Name, other.Name, d.Bridge))
		}
	}
	if err := s.address(ctx, d, config.GetSubnets()); err != nil {
		return "", fmt.Errorf("cannot create network %q: %w", d.Name, err)
	}
	if err := s.definitions.Put(d.Name, d); err != nil {
		return "", err
	}
	s.networks[d.Name] = d
	s.cfg.Logger.Info("network created", "network", d.Name, "id", d.ID, "subnet", d.Subnet.String())
	s.publish("create", d, nil)
	return d.ID, nil
}

// Remove removes a network without containers.
func (s *Service) Remove(ctx context.Context, ref string) error {
	d, err := s.claimRemoval(ref)
	if err != nil {
		return err
	}
	err = s.removeClaimed(ctx, d)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.removing, d.Name)
	if err != nil {
		return err
	}
	delete(s.networks, d.Name)
	s.cfg.Logger.Info("network removed", "network", d.Name, "id", d.ID)
	s.publish("destroy", d, nil)
	return nil
}

// claimRemoval finds a network that may be removed, and keeps containers from being connected to it.
func (s *Service) claimRemoval(ref string) (*definition, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	if d.Predefined {
		return nil, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot remove network %q: it is predefined", d.Name))
	}
	if why := s.user(d.Name); why != "" {
		return nil, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot remove network %q: %s", d.Name, why))
	}
	s.removing[d.Name] = true
	return d, nil
}

func (s *Service) removeClaimed(ctx context.Context, d *definition) error {
	if err := s.exec.DeleteBridge(ctx, d.Bridge); err != nil {
		return fmt.Errorf("cannot remove the bridge of network %q: %w", d.Name, err)
	}
	if err := os.RemoveAll(s.leases(d)); err != nil {
		return fmt.Errorf("cannot remove the leases of network %q: %w", d.Name, err)
	}
	return s.definitions.Delete(d.Name)
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
