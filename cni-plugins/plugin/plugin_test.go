package plugin

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

func TestOwnersAreShortAndDistinct(t *testing.T) {
	long := strings.Repeat("x", 300)
	seen := map[string]bool{}
	for _, r := range []*Request{
		{Common: types.PluginConf{Name: "net"}, ContainerID: "c", IfName: "eth0"},
		{Common: types.PluginConf{Name: long + "a"}, ContainerID: long, IfName: "a-name-of-15-by"},
		{Common: types.PluginConf{Name: long + "b"}, ContainerID: long, IfName: "a-name-of-15-by"},
		{Common: types.PluginConf{Name: long + "a"}, ContainerID: long + "b", IfName: "a-name-of-15-by"},
	} {
		owner := r.Owner()
		if len(owner) > 254 || len(strings.Fields(owner)) != 3 || seen[owner] {
			t.Errorf("the owner %q (%d bytes) is too long, not of three parts, or not the only one", owner, len(owner))
		}
		seen[owner] = true
	}
}

func TestStaleIsOfTheNetworkAndNotValid(t *testing.T) {
	r := &Request{Common: types.PluginConf{Name: "net", ValidAttachments: []types.GCAttachment{{ContainerID: "keep", IfName: "eth0"}}}}
	stale := r.Stale()
	for owner, want := range map[string]bool{
		"net keep eth0": false, "net keep eth1": true, "net lost eth0": true, "net2 lost eth0": false, "net": false, "": false,
	} {
		if got := stale(owner); got != want {
			t.Errorf("%q is stale: %v, want %v", owner, got, want)
		}
	}
}

func TestArguments(t *testing.T) {
	r := &Request{Args: "IgnoreUnknown=1;IP=10.0.0.1,10.0.0.2;MAC=;IP=10.0.0.3;broken"}
	if got := r.Arguments("IP"); !slices.Equal(got, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}) {
		t.Errorf("IP is %v", got)
	}
	if got := append(r.Arguments("MAC"), r.Arguments("broken")...); len(got) != 0 {
		t.Errorf("empty arguments are %v", got)
	}
}

// A result for an older version must not have keys that came later: strict parsers refuse them.
func TestTrim(t *testing.T) {
	metric := 7
	for version, want := range map[string]bool{"1.0.0": false, "0.4.0": false, "1.1.0": true} {
		result := &types100.Result{
			Interfaces: []*types100.Interface{{Name: "eth0", Mtu: 1500}},
			Routes:     []*types.Route{{MTU: 1400, Priority: 3, Table: &metric}},
		}
		if err := trim(result, version); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(result)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{`"mtu"`, `"priority"`, `"table"`} {
			if strings.Contains(string(text), key) != want {
				t.Errorf("version %s: %s in %s", version, key, text)
			}
		}
	}
}
