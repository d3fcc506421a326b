package networks

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/berthd/berth/cni-plugins/inprocess"
	"github.com/berthd/berth/internal/errdefs"
)

func prefix(text string, routed bool) inprocess.Prefix {
	return inprocess.Prefix{Prefix: netip.MustParsePrefix(text), Routed: routed}
}

// Addresses are chosen that nothing of the host leads to, neither an address nor a route of a VPN.
func TestChosenSubnetsAreFree(t *testing.T) {
	for _, c := range []struct {
		used []inprocess.Prefix
		want string
	}{
		{nil, "10.86.0.0/16"},
		{[]inprocess.Prefix{prefix("10.86.3.0/24", false)}, "10.82.0.0/16"},
		{[]inprocess.Prefix{prefix("10.86.3.0/24", true), prefix("10.82.0.1/32", true)}, "10.78.0.0/16"},
		{[]inprocess.Prefix{prefix("10.0.0.0/8", true)}, "172.30.0.0/16"},
	} {
		d := &definition{}
		if err := d.choose(defaultSubnets(), c.used); err != nil || d.Subnet.String() != c.want || d.Gateway != d.Subnet.Addr().Next() {
			t.Errorf("with %v in use got %v, %v", c.used, d.Subnet, err)
		}
	}
	all := []inprocess.Prefix{prefix("0.0.0.0/1", true), prefix("128.0.0.0/1", true)}
	if err := (&definition{}).choose(furtherSubnets(), all); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("with everything in use: %v", err)
	}
	for candidates := range furtherSubnets() {
		for fixed := range defaultSubnets() {
			if candidates.Overlaps(fixed) && fixed.Bits() != 20 {
				t.Errorf("%v is for further networks, and within %v of the default one", candidates, fixed)
			}
		}
	}
}

// Addresses that somebody asks for may be part of what a route leads to, as that of a VPN, but nothing more specific may be in them.
func TestSubnetsThatAreAskedFor(t *testing.T) {
	d := &definition{Subnet: netip.MustParsePrefix("10.5.0.0/16")}
	for other, free := range map[inprocess.Prefix]bool{
		prefix("10.0.0.0/8", true): true, prefix("10.5.0.0/16", true): false, prefix("10.5.7.0/24", true): false,
		prefix("10.0.0.0/8", false): false, prefix("10.6.0.0/16", false): true,
	} {
		if err := d.free([]inprocess.Prefix{other}); (err == nil) != free {
			t.Errorf("with %v: %v", other, err)
		}
	}
}

func TestParseOptions(t *testing.T) {
	for _, c := range []struct {
		given map[string]string
		want  string // the policy of the firewall
		class error
	}{
		{nil, "same-bridge", nil},
		{map[string]string{optionBridge + "enable_icc": "false"}, "isolated", nil},
		{map[string]string{optionBridge + "enable_icc": "1", optionMTU: "9000"}, "same-bridge", nil},
		{map[string]string{optionBridge + "gateway_mode_ipv4": "nat-unprotected"}, "open", nil},
		{map[string]string{optionBridge + "gateway_mode_ipv4": "nat-unprotected", optionBridge + "enable_icc": "false"}, "", errdefs.ErrInvalidArgument},
		{map[string]string{optionMTU: "20"}, "", errdefs.ErrInvalidArgument},
		{map[string]string{optionBridge + "host_binding_ipv4": "::1"}, "", errdefs.ErrInvalidArgument},
		{map[string]string{optionBridge + "name": "a b"}, "", errdefs.ErrInvalidArgument},
		{map[string]string{"purpose": "test"}, "", errdefs.ErrUnimplemented},
	} {
		got, err := parseOptions(c.given)
		if !errors.Is(err, c.class) || err == nil && got.policy() != c.want {
			t.Errorf("%v: got %+v, %v", c.given, got, err)
		}
	}
}

// A network in which a call is at work, which may take long with plugins of others, can't be removed, and keeps no other from it.
func TestRemovalWaitsForNobody(t *testing.T) {
	s := &Service{networks: map[string]*definition{}, entered: map[string]int{}, removing: map[string]bool{}}
	for _, name := range []string{"slow", "other"} {
		s.networks[name] = &definition{Name: name, Driver: driverBridge}
	}
	leave, err := s.enter([]endpoint{{Network: "slow"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.claimRemoval("slow"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a network is removed while a container is connected to it: %v", err)
	}
	if _, err := s.claimRemoval("other"); err != nil {
		t.Errorf("another network can't be removed: %v", err)
	}
	if _, err := s.enter([]endpoint{{Network: "other"}}); !errors.Is(err, errdefs.ErrAborted) {
		t.Errorf("a container is connected to a network that is being removed: %v", err)
	}
	leave()
	if _, err := s.claimRemoval("slow"); err != nil {
		t.Errorf("the network can't be removed: %v", err)
	}
}
