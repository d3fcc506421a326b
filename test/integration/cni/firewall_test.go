package cni_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// island attaches a container that serves HTTP to a network with a bridge and a policy of its own.
func (h *host) island(name, bridge, subnet string, policy object) (*container, string) {
	h.t.Helper()
	conf := h.bridgeConf(subnet)
	conf["bridge"] = bridge
	n := list(h.t, name, conf, portmapConf(), policy)
	c := newContainer(h.t, name, port("", 8000+len(h.entries("berth")), 80))
	ip := address(h.t, h.attach(n, c), 0)
	c.serve(":80", name)
	if err := h.check(n, c); err != nil {
		h.t.Errorf("CHECK: %v", err)
	}
	return c, ip + ":80"
}

func TestPoliciesBetweenBridges(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	out := h.outside()
	out.serve(":80", "outside")
	out.run("ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.1")
	policy := func(name string) object { return object{"type": "firewall", "ingressPolicy": name} }
	one, oneAt := h.island("one", "br1", "10.1.0.0/24", policy("same-bridge"))
	two, twoAt := h.island("two", "br2", "10.2.0.0/24", policy("same-bridge"))
	open, openAt := h.island("open", "br3", "10.3.0.0/24", policy("open"))

	one.wantSilence(twoAt)
	two.wantSilence(oneAt)
	one.wantAnswer(openAt, "open")
	open.wantSilence(oneAt)
	for _, c := range []*container{one, two, open} {
		if from := c.wantAnswer("192.0.2.2:80", "outside"); from != "192.0.2.1" {
			t.Errorf("%s comes as %s", c.id, from)
		}
	}
	out.wantAnswer(openAt, "open")
	for at, name := range map[string]string{oneAt: "one", twoAt: "two", openAt: "open"} {
		h.wantAnswer(at, name)
	}
	// A published port is for everybody.
	published := one.ports[0]["hostPort"].(int)
	two.wantAnswer(atHost(published), "one")
}

// A neighbour that routes to the bridge through the host reaches what is published, where it is published, and nothing else.
func TestNeighboursReachPublishedPortsOnly(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+setting, func(t *testing.T) {
			h := newHost(t)
			setBridgeNetfilter(h, setting)
			out := h.outside()
			out.serve(":80", "outside")
			out.run("ip", "route", "add", "10.88.0.0/24", "via", "192.0.2.1")
			out.run("ip", "-6", "route", "add", "fd00:88::/64", "via", "2001:db8::1")
			n := h.network("net", "10.88.0.0/24", "fd00:88::/64")
			web := newContainer(t, "web", port("", 8080, 80), port("127.0.0.1", 8081, 81))
			result := h.attach(n, web)
			other := newContainer(t, "other")
			h.attach(n, other)
			v4, v6 := address(t, result, 0), address(t, result, 1)
			for _, inside := range []string{":80", ":81", ":5432"} {
				web.serve(inside, "web")
				for _, at := range []string{v4 + inside, "[" + v6 + "]" + inside} {
					out.wantSilence(at)
					h.wantAnswer(at, "web")
					other.wantAnswer(at, "web")
				}
			}
			out.wantSilence("192.0.2.1:8081")
			out.wantAnswer("192.0.2.1:8080", "web")
			if from := web.wantAnswer("192.0.2.2:80", "outside"); from != "192.0.2.1" {
				t.Errorf("the container comes as %s", from)
			}
			// An administrator can let neighbours in.
			h.run("nft", "add", "rule", "inet", "berth", "admin", "ip", "daddr", v4, "tcp", "dport", "5432", "accept")
			out.wantAnswer(v4+":5432", "web")
			out.wantSilence(v4 + ":81")
		})
	}
}

// A table of that name that somebody else made is refused, and left as it is.
func TestForeignTableIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.run("nft", "add table inet berth; add chain inet berth mine; add rule inet berth mine drop")
	before := h.run("nft", "list", "ruleset")
	n := h.network("net", "10.88.0.0/24")
	if _, err := h.tryAttach(n, newContainer(t, "c")); err == nil || !strings.Contains(err.Error(), `"berth"`) || !strings.Contains(err.Error(), "not made by berth") {
		t.Errorf("a foreign table: %v", err)
	}
	if err := h.status(n); err == nil {
		t.Error("STATUS says that the network can be used")
	}
	if after := h.run("nft", "list", "ruleset"); after != before {
		t.Errorf("the foreign table has changed:\n%s", after)
	}
	if left := h.leases("net"); len(left) > 0 {
		t.Errorf("addresses are left: %v", left)
	}
}

// atHost is a published port as others see it.
func atHost(port int) string { return fmt.Sprint("192.0.2.1:", port) }

func TestIsolatedContainersSeeNobody(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"0", "1"} {
		h := newHost(t)
		setBridgeNetfilter(h, setting)
		out := h.outside()
		out.serve(":80", "outside")
		conf := h.bridgeConf("10.1.0.0/24")
		n := list(t, "net", conf, portmapConf(), object{"type": "firewall", "ingressPolicy": "isolated"})
		a, b := newContainer(t, "a", port("", 8080, 80)), newContainer(t, "b")
		ip := address(t, h.attach(n, a), 0)
		h.attach(n, b)
		a.serve(":80", "a")
		b.wantSilence(ip + ":80")
		b.wantAnswer("192.0.2.2:80", "outside")
		h.wantAnswer(ip+":80", "a")
		out.wantAnswer("192.0.2.1:8080", "a")
	}
}

func TestInternalNetworkForwardsNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	out := h.outside()
	out.serve(":80", "outside")
	out.run("ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.1")
	inner, innerAt := h.island("inner", "br1", "10.1.0.0/24", object{"type": "firewall", "internal": true})
	open, openAt := h.island("open", "br2", "10.2.0.0/24", object{"type": "firewall"})
	inner.wantSilence("192.0.2.2:80")
	inner.wantSilence(openAt)
	open.wantSilence(innerAt)
	out.wantSilence(innerAt)
	out.wantSilence(atHost(inner.ports[0]["hostPort"].(int)))
	h.wantAnswer(innerAt, "inner")
	inner.wantAnswer(innerAt, "inner")
}

// Rules that the administrator wrote into the chain for that purpose count, and stay.
func TestAdminChainIsKept(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	out := h.outside()
	n := h.network("net", "10.88.0.0/24")
	web := newContainer(t, "web", port("", 8080, 80))
	h.attach(n, web)
	web.serve(":80", "web")
	out.wantAnswer("192.0.2.1:8080", "web")
	h.run("nft", "add", "rule", "inet", "berth", "admin", "ip", "saddr", "192.0.2.2", "drop")
	out.wantSilence("192.0.2.1:8080")
	var err error
	h.do(func() { // renews the layout
		err = h.cni.GCNetworkList(t.Context(), n, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "web", IfName: "eth0"}}})
	})
	if err != nil {
		t.Errorf("GC: %v", err)
	}
	other := newContainer(t, "other", port("", 8081, 80))
	h.attach(n, other)
	other.serve(":80", "other")
	out.wantSilence("192.0.2.1:8080")
	h.wantAnswer("192.0.2.1:8080", "web")
	h.wantAnswer("192.0.2.1:8081", "other")
}

// Two daemons, or a daemon and a kubelet, can have tables of their own on one host.
func TestTablesOfTheirOwn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	mine := func(name, bridge, subnet, table string) (*container, func()) {
		conf := h.bridgeConf(subnet)
		chain := []object{conf, portmapConf(), firewallConf()}
		conf["bridge"] = bridge
		for _, plugin := range chain {
			plugin["nftTable"] = table
		}
		n := list(t, name, chain...)
		c := newContainer(t, name, port("", map[string]int{"a": 8080, "b": 8081}[name], 80))
		h.attach(n, c)
		c.serve(":80", name)
		return c, func() { h.detach(n, c) }
	}
	mine("a", "br1", "10.1.0.0/24", "berth-a")
	_, leave := mine("b", "br2", "10.2.0.0/24", "berth-b")
	h.wantAnswer("127.0.0.1:8080", "a")
	h.wantAnswer("127.0.0.1:8081", "b")
	leave()
	if left := h.entries("berth-b"); len(left) > 0 {
		t.Errorf("entries are left: %q", left)
	}
	h.wantAnswer("127.0.0.1:8080", "a")
	h.wantSilence("127.0.0.1:8081")
}
