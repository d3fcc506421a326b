package cni_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
)

func address(t testing.TB, result *types100.Result, index int) string {
	t.Helper()
	if len(result.IPs) <= index {
		t.Fatalf("the result has %d addresses", len(result.IPs))
	}
	return result.IPs[index].Address.IP.String()
}

// outside connects a namespace to the host as a machine on its uplink would be: 192.0.2.1 and 192.0.2.2.
func (h *host) outside() *namespace {
	h.t.Helper()
	out := newNamespace(h.t)
	h.run("ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "eth0", "netns", out.path)
	h.run("ip", "address", "add", "192.0.2.1/24", "dev", "uplink0")
	h.run("ip", "address", "add", "2001:db8::1/64", "dev", "uplink0", "nodad")
	h.run("ip", "link", "set", "uplink0", "up")
	out.run("ip", "address", "add", "192.0.2.2/24", "dev", "eth0")
	out.run("ip", "address", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	out.run("ip", "link", "set", "eth0", "up")
	return out
}

// br_netfilter, which Kubernetes turns on and Docker too, sends what stays on a bridge through other hooks.
func TestPublishedPortsAnswerEverywhere(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+setting, func(t *testing.T) {
			h := newHost(t)
			setBridgeNetfilter(h, setting)
			h.sysctl("net.ipv4.conf.all.rp_filter", setting) // some distributions have 1
			out := h.outside()
			n := h.network("net", "10.88.0.0/24")
			web := newContainer(t, "web", port("", 8080, 80), port("127.0.0.1", 8081, 80), port("0.0.0.0", 8082, 80), port("192.0.2.1", 8083, 80))
			ip := address(t, h.attach(n, web), 0)
			other := newContainer(t, "other")
			h.attach(n, other)
			web.serve(":80", "web")

			for _, at := range []string{"127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082", "192.0.2.1:8080", "192.0.2.1:8083", "10.88.0.1:8080", ip + ":80"} {
				h.wantAnswer(at, "web")
			}
			for _, at := range []string{"10.88.0.1:8080", "192.0.2.1:8080", "192.0.2.1:8083"} {
				web.wantAnswer(at, "web")
				other.wantAnswer(at, "web")
			}
			for _, at := range []string{"192.0.2.1:8080", "192.0.2.1:8082", "192.0.2.1:8083"} {
				if from := out.wantAnswer(at, "web"); from != "192.0.2.2" {
					t.Errorf("the container sees a client from outside as %s", from)
				}
			}
			for _, at := range []string{"192.0.2.1:8081", "192.0.2.1:80"} {
				out.wantSilence(at)
				other.wantSilence(at)
			}
			if err := h.check(n, web); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			h.detach(n, web)
			h.detach(n, web) // once more: there is nothing to do
			h.wantSilence("127.0.0.1:8080")
			h.detach(n, other)
			h.wantNothing("net")
		})
	}
}

func setBridgeNetfilter(h *host, value string) {
	h.t.Helper()
	if _, err := h.try("test", "-e", "/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		if value == "1" {
			h.t.Skip("the kernel has no br_netfilter")
		}
		return
	}
	h.sysctl("net.bridge.bridge-nf-call-iptables", value)
	h.sysctl("net.bridge.bridge-nf-call-ip6tables", value)
}

// Setting route_localnet, which 127.0.0.1 needs to leave the host, must not open the host's own loopback services to others.
func TestLoopbackStaysPrivate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	out := h.outside()
	n := h.network("net", "10.88.0.0/24")
	web := newContainer(t, "web", port("127.0.0.1", 8081, 80))
	h.attach(n, web)
	web.serve(":80", "web")
	h.serve("127.0.0.1:9000", "secret")
	h.sysctl("net.ipv4.conf.uplink0.route_localnet", "1")
	for _, from := range []*namespace{out, web.namespace} {
		gateway := map[*namespace]string{out: "192.0.2.1", web.namespace: "10.88.0.1"}[from]
		from.sysctl("net.ipv4.conf.all.route_localnet", "1")
		from.run("ip", "address", "del", "127.0.0.1/8", "dev", "lo")
		from.run("ip", "route", "add", "127.0.0.0/8", "via", gateway)
		from.wantSilence("127.0.0.1:9000")
		from.wantSilence("127.0.0.1:8081")
	}
	h.wantAnswer("127.0.0.1:9000", "secret")
	h.wantAnswer("127.0.0.1:8081", "web")
}

func TestContainersReachTheOutsideAsTheHost(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	out := h.outside()
	out.serve("192.0.2.2:80", "outside")
	out.serve("[2001:db8::2]:80", "outside")
	n := h.network("net", "10.88.0.0/24", "fd00:88::/64")
	c := newContainer(t, "c")
	h.attach(n, c)
	if from := c.wantAnswer("192.0.2.2:80", "outside"); from != "192.0.2.1" {
		t.Errorf("the container comes as %s", from)
	}
	if from := c.wantAnswer("[2001:db8::2]:80", "outside"); from != "2001:db8::1" {
		t.Errorf("the container comes as %s", from)
	}
}

func TestContainersOfOneBridgeSeeEachOther(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24")
	a, b := newContainer(t, "a"), newContainer(t, "b")
	ip := address(t, h.attach(n, a), 0)
	from := address(t, h.attach(n, b), 0)
	a.serve(":80", "a")
	if seen := b.wantAnswer(ip+":80", "a"); seen != from {
		t.Errorf("a sees b as %s, want %s", seen, from)
	}
}

func TestDualStack(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	out := h.outside()
	n := h.network("net", "10.88.0.0/24", "fd00:88::/64")
	web := newContainer(t, "web", port("", 8080, 80), port("::", 8081, 80))
	result := h.attach(n, web)
	if got := []string{address(t, result, 0), address(t, result, 1)}; !slices.Equal(got, []string{"10.88.0.2", "fd00:88::2"}) {
		t.Errorf("the addresses are %v", got)
	}
	web.serve(":80", "web") // at once: an address that is still checked for duplicates would refuse
	for _, at := range []string{"127.0.0.1:8080", "[fd00:88::2]:80", "[fd00:88::1]:8080", "[2001:db8::1]:8080", "[2001:db8::1]:8081"} {
		h.wantAnswer(at, "web")
	}
	for _, at := range []string{"192.0.2.1:8080", "[2001:db8::1]:8080", "[2001:db8::1]:8081"} {
		out.wantAnswer(at, "web")
	}
	web.wantAnswer("[2001:db8::1]:8080", "web")
	h.wantSilence("127.0.0.1:8081")
	if err := h.check(n, web); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	h.detach(n, web)
	h.wantNothing("net")
}

func TestUDPAndManyPorts(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24")
	var ports []object
	for i := range 300 {
		ports = append(ports, port("", 20000+i, 80))
	}
	ports = append(ports, object{"hostPort": 20000, "containerPort": 53, "protocol": "udp"}, object{"hostPort": 20000, "containerPort": 53, "protocol": "sctp"})
	web := newContainer(t, "web", ports...)
	h.attach(n, web)
	web.serve(":80", "web")
	h.wantAnswer("127.0.0.1:20000", "web")
	h.wantAnswer("127.0.0.1:20299", "web")
	if found := len(h.entries("berth")); found < 1 {
		t.Error("there are no entries")
	}
	if err := h.check(n, web); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	h.detach(n, web)
	h.wantNothing("net")
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := list(t, "lo", object{"type": "loopback"})
	c := newContainer(t, "c")
	c.ifName = "lo"
	c.run("ip", "link", "set", "lo", "down")
	result := h.attach(n, c)
	if got := address(t, result, 0); got != "127.0.0.1" {
		t.Errorf("the address is %s", got)
	}
	if err := h.check(n, c); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	c.run("ip", "link", "set", "lo", "down")
	if err := h.check(n, c); err == nil || !strings.Contains(err.Error(), "down") {
		t.Errorf("CHECK of lo that is down: %v", err)
	}
	h.detach(n, c)
}

func TestBridgeOptionsTakeEffect(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	conf := h.bridgeConf("10.88.0.0/24")
	conf["mtu"], conf["promiscMode"], conf["hairpinMode"], conf["portIsolation"] = 1400, true, false, true
	conf["ipam"].(object)["routes"] = []any{object{"dst": "198.51.100.0/24"}, object{"dst": "203.0.113.0/24", "gw": "10.88.0.9", "mtu": 1300, "priority": 7}}
	n := list(t, "net", conf)
	c := newContainer(t, "c")
	c.args = [][2]string{{"IgnoreUnknown", "1"}, {"MAC", "02:00:00:00:00:99"}}
	result := h.attach(n, c)
	for _, described := range result.Interfaces {
		if described.Mtu != 1400 {
			t.Errorf("the MTU of %s is %d", described.Name, described.Mtu)
		}
	}
	inside := c.run("ip", "link", "show", "eth0") + c.run("ip", "route")
	for _, want := range []string{"mtu 1400", "02:00:00:00:00:99", "198.51.100.0/24 via 10.88.0.1", "203.0.113.0/24 via 10.88.0.9", "metric 7 mtu 1300", "default via 10.88.0.1"} {
		if !strings.Contains(inside, want) {
			t.Errorf("the container has no %q in:\n%s", want, inside)
		}
	}
	veth := result.Interfaces[1].Name
	if details := h.run("ip", "-d", "link", "show", veth); !strings.Contains(details, "isolated on") || !strings.Contains(details, "alias net c eth0") {
		t.Errorf("the port is:\n%s", details)
	}
	if details := h.run("ip", "-d", "link", "show", "berth0"); !strings.Contains(details, "promiscuity 1") {
		t.Errorf("the bridge is:\n%s", details)
	}
	if err := h.check(n, c); err != nil {
		t.Errorf("CHECK: %v", err)
	}
}

// The result is in the version that the configuration asks for.
func TestOlderVersions(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"0.1.0", "0.2.0", "0.3.1", "0.4.0", "1.0.0"} {
		h := newHost(t)
		n := versionedList(t, version, "net", h.bridgeConf("10.88.0.0/24"), portmapConf(), firewallConf())
		c := newContainer(t, "c", port("", 8080, 80))
		if got := address(t, h.attach(n, c), 0); got != "10.88.0.2" {
			t.Errorf("version %s: the address is %s", version, got)
		}
		if err := h.check(n, c); (err != nil) != (version < "0.4.0") {
			t.Errorf("version %s: CHECK: %v", version, err)
		}
		h.detach(n, c)
		h.wantNothing("net")
	}
}

// Addresses go round, so that one is reused as late as possible.
func TestAddressesGoRound(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/29")
	var got []string
	for i := range 7 {
		c := newContainer(t, fmt.Sprint("c", i))
		got = append(got, address(t, h.attach(n, c), 0))
		h.detach(n, c)
	}
	want := []string{"10.88.0.2", "10.88.0.3", "10.88.0.4", "10.88.0.5", "10.88.0.6", "10.88.0.2", "10.88.0.3"}
	if !slices.Equal(got, want) {
		t.Errorf("the addresses are %v, want %v", got, want)
	}
}

// A container in two networks has the default route of the first, and both are whole.
func TestTwoNetworks(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	out := h.outside()
	out.serve(":80", "outside")
	conf := h.bridgeConf("10.99.0.0/24")
	conf["bridge"] = "berth1"
	first, second := h.network("first", "10.88.0.0/24"), list(t, "second", conf, portmapConf(), firewallConf())
	c := newContainer(t, "c", port("", 8080, 80))
	h.attach(first, c)
	neighbour := newContainer(t, "neighbour")
	at := address(t, h.attach(second, neighbour), 0)
	neighbour.serve(":80", "neighbour")
	c.ifName, c.ports = "eth1", []object{port("", 8081, 80)}
	if routes := h.attach(second, c).Routes; len(routes) > 0 {
		t.Errorf("the second network gives routes %v", routes)
	}
	if route := c.run("ip", "route", "show", "default"); !strings.Contains(route, "via 10.88.0.1 dev eth0") {
		t.Errorf("the default route is %s", route)
	}
	c.serve(":80", "c")
	c.wantAnswer("192.0.2.2:80", "outside")
	c.wantAnswer(at+":80", "neighbour")
	h.wantAnswer("127.0.0.1:8080", "c")
	h.wantAnswer("127.0.0.1:8081", "c")
	if err := h.check(second, c); err != nil {
		t.Errorf("CHECK of the second: %v", err)
	}
	h.detach(second, c)
	h.wantAnswer("127.0.0.1:8080", "c")
	h.wantSilence("127.0.0.1:8081")
	c.ifName, c.ports = "eth0", []object{port("", 8080, 80)}
	if err := h.check(first, c); err != nil {
		t.Errorf("CHECK of the first: %v", err)
	}
}

// A bridge that an administrator made, without a hardware address of its own, keeps the one it has.
func TestForeignBridgeKeepsItsAddress(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.run("ip", "link", "add", "berth0", "type", "bridge")
	n := h.network("net", "10.88.0.0/24")
	a := newContainer(t, "a")
	before := h.attach(n, a).Interfaces[0].Mac
	for _, id := range []string{"b", "c", "d"} {
		if mac := h.attach(n, newContainer(t, id)).Interfaces[0].Mac; mac != before {
			t.Errorf("the bridge had the address %s and has %s", before, mac)
		}
	}
	h.detach(n, a)
	if link := h.run("ip", "link", "show", "berth0"); !strings.Contains(link, before) {
		t.Errorf("the bridge had the address %s and is\n%s", before, link)
	}
}

func TestContainerInterfaceMayStayDown(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := list(t, "net", object{"type": "bridge", "bridge": "berth0", "disableContainerInterface": true})
	c := newContainer(t, "c")
	h.attach(n, c)
	if link := c.run("ip", "link", "show", "eth0"); !strings.Contains(link, "state DOWN") {
		t.Errorf("the interface is\n%s", link)
	}
	if err := h.check(n, c); err != nil {
		t.Errorf("CHECK: %v", err)
	}
}
