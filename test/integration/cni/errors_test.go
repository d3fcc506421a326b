package cni_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// wantError fails unless err is CNI's with the code, and says all of the words.
func wantError(t testing.TB, err error, code uint, words ...string) {
	t.Helper()
	var failure *types.Error
	if !errors.As(err, &failure) {
		t.Errorf("got %v, want an error of CNI with %q", err, words)
		return
	}
	if failure.Code != code {
		t.Errorf("the code is %d, want %d: %v", failure.Code, code, failure.Msg)
	}
	for _, word := range words {
		if !strings.Contains(failure.Msg, word) {
			t.Errorf("the message %q does not say %q", failure.Msg, word)
		}
	}
}

const (
	codeUnsupported = 2
	codeEnvironment = 4
	codeDecoding    = 6
	codeConfig      = 7
	codeTaken       = 101
	codeExhausted   = 102
)

func TestBadConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	edit := func(key string, value any) object {
		conf := h.bridgeConf("10.88.0.0/24")
		conf[key] = value
		return conf
	}
	ipam := func(value object) object {
		value["type"], value["dataDir"] = "host-local", filepath.Join(h.dir, "leases")
		return edit("ipam", value)
	}
	chained := func(key string, value any) object { return object{"type": "portmap", key: value} }
	subnet := func(value string) object { return object{"subnet": value} }
	for _, test := range []struct {
		name  string
		conf  object
		code  uint
		words []string
	}{
		{"bridge name too long", edit("bridge", "a-bridge-with-a-long-name"), codeConfig, []string{"a-bridge-with-a-long-name", "15 bytes"}},
		{"bridge of a wrong type", edit("bridge", 7), codeDecoding, []string{"net"}},
		{"vlan", edit("vlan", 5), codeUnsupported, []string{"vlan is not implemented"}},
		{"iptables masquerading", edit("ipMasqBackend", "iptables"), codeUnsupported, []string{"iptables"}},
		{"hairpin and promiscuous", edit("promiscMode", true), codeConfig, []string{"hairpinMode", "promiscMode"}},
		{"MTU", edit("mtu", 70000), codeConfig, []string{"70000"}},
		{"table name", edit("nftTable", "a b"), codeConfig, []string{"nftTable", "a b"}},
		{"no ranges", ipam(object{}), codeConfig, []string{"no address ranges"}},
		{"subnet unreadable", ipam(subnet("10.88.0.0/99")), codeDecoding, []string{"net"}},
		{"host bits", ipam(subnet("10.88.0.1/24")), codeConfig, []string{"10.88.0.1/24", "10.88.0.0/24"}},
		{"subnet too small", ipam(subnet("10.88.0.0/31")), codeConfig, []string{"10.88.0.0/31", "too small"}},
		{"start outside", ipam(object{"subnet": "10.88.0.0/24", "rangeStart": "10.89.0.1"}), codeConfig, []string{"rangeStart", "10.89.0.1"}},
		{"start behind end", ipam(object{"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.9", "rangeEnd": "10.88.0.3"}), codeConfig, []string{"10.88.0.9"}},
		{"overlap", ipam(object{"ranges": []any{[]any{subnet("10.88.0.0/16")}, []any{subnet("10.88.7.0/24")}}}), codeConfig, []string{"overlaps"}},
		{"families mixed", ipam(object{"ranges": []any{[]any{subnet("10.88.0.0/16"), subnet("fd00::/64")}}}), codeConfig, []string{"families"}},
		{"resolvConf missing", ipam(object{"subnet": "10.88.0.0/24", "resolvConf": "/nonexistent/resolv.conf"}), 999, []string{"/nonexistent/resolv.conf"}},
		{"ports without a bridge", portmapConf(), codeConfig, []string{"portmap", "prevResult"}},
		{"policy without a bridge", firewallConf(), codeConfig, []string{"firewall", "prevResult"}},
		{"iptables ports", chained("backend", "iptables"), codeUnsupported, []string{"iptables"}},
		{"conditions", chained("conditionsV4", []string{"-s", "x"}), codeUnsupported, []string{"conditionsV4"}},
		{"unknown policy", object{"type": "firewall", "ingressPolicy": "closed"}, codeConfig, []string{"closed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newContainer(t, "c")
			_, err := h.tryAttach(list(t, "net", test.conf), c)
			wantError(t, err, test.code, test.words...)
			if links := c.links(); len(links) > 0 {
				t.Errorf("the container has links %v", links)
			}
			h.wantNothing("net")
		})
	}
}

func TestBadPortMappingsAreRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24")
	for _, test := range []struct {
		name  string
		ports []object
		words []string
	}{
		{"no host port", []object{port("", 0, 80)}, []string{"hostPort 0"}},
		{"container port", []object{port("", 80, 70000)}, []string{"containerPort 70000"}},
		{"protocol", []object{{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}}, []string{"icmp"}},
		{"host address", []object{port("localhost", 80, 80)}, []string{"localhost"}},
		{"no such host address", []object{port("192.0.2.77", 8080, 80)}, []string{"192.0.2.77:8080/tcp", "not an address of this host"}},
		{"family", []object{port("fd00::1", 8080, 80)}, []string{"fd00::1", "family"}},
		{"twice", []object{port("", 8080, 80), port("", 8080, 81)}, []string{"8080/tcp", "twice"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newContainer(t, "c", test.ports...)
			_, err := h.tryAttach(n, c)
			wantError(t, err, codeConfig, test.words...)
			h.detach(n, c) // as a caller has to after a failed ADD
			h.wantNothing("net")
		})
	}
}

func TestTakenPortIsNamed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.outside()
	n := h.network("net", "10.88.0.0/24")
	holder := newContainer(t, "holder", port("", 8080, 80), port("127.0.0.1", 8081, 80), object{"hostPort": 5353, "containerPort": 53, "protocol": "udp"})
	ip := address(t, h.attach(n, holder), 0)
	holder.serve(":80", "holder")
	h.serve("127.0.0.1:9000", "process")
	h.serve("0.0.0.0:9001", "process")
	before := len(h.entries("berth"))

	for _, test := range []struct {
		port  object
		words []string
	}{
		{port("", 8080, 80), []string{"0.0.0.0:8080/tcp", `"holder"`}},
		{port("0.0.0.0", 8080, 80), []string{"0.0.0.0:8080/tcp", `"holder"`}},
		{port("127.0.0.1", 8080, 80), []string{"127.0.0.1:8080/tcp", `"holder"`}},
		{port("192.0.2.1", 8080, 80), []string{"192.0.2.1:8080/tcp", `"holder"`}},
		{port("127.0.0.1", 8081, 80), []string{"127.0.0.1:8081/tcp", `"holder"`}},
		{port("", 8081, 80), []string{"0.0.0.0:8081/tcp", `"holder"`}},
		{object{"hostPort": 5353, "containerPort": 53, "protocol": "udp"}, []string{"0.0.0.0:5353/udp", `"holder"`}},
		{port("127.0.0.1", 9000, 80), []string{"127.0.0.1:9000/tcp", "process"}},
		{port("", 9000, 80), []string{"0.0.0.0:9000/tcp", "process"}},
		{port("192.0.2.1", 9001, 80), []string{"192.0.2.1:9001/tcp", "process"}},
	} {
		c := newContainer(t, "late", port("", 7000, 80), test.port)
		_, err := h.tryAttach(n, c)
		wantError(t, err, codeTaken, append(test.words, "address already in use")...)
		h.detach(n, c)
	}
	if after := h.entries("berth"); len(after) != before {
		t.Errorf("the refused containers left entries: %q", after)
	}
	if leases := h.leases("net"); len(leases) != 1 || leases[0] != ip {
		t.Errorf("the addresses in use are %v, want %s only", leases, ip)
	}
	h.wantAnswer("127.0.0.1:8080", "holder")
	h.wantAnswer("127.0.0.1:9000", "process")

	// What does not overlap is free.
	for _, free := range []object{port("192.0.2.1", 8081, 80), {"hostPort": 8080, "containerPort": 80, "protocol": "udp"}, port("192.0.2.1", 9000, 80)} {
		c := newContainer(t, "free", free)
		h.attach(n, c)
		h.detach(n, c)
	}
}

func TestExhaustedSubnetIsAnError(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/29")
	var all []*container
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		c := newContainer(t, id)
		h.attach(n, c)
		all = append(all, c)
	}
	c := newContainer(t, "late")
	_, err := h.tryAttach(n, c)
	wantError(t, err, codeExhausted, "no address is left", "10.88.0.1-10.88.0.6", `"net"`)
	if links := c.links(); len(links) > 0 {
		t.Errorf("the container has links %v", links)
	}
	if err := h.status(n); err == nil || !strings.Contains(err.Error(), "no address is left") {
		t.Errorf("STATUS: %v", err)
	}
	h.detach(n, all[2])
	if got := address(t, h.attach(n, c), 0); got != "10.88.0.4" {
		t.Errorf("the address is %s, want the one that was released", got)
	}
}

func TestSecondAttachmentIsRefusedAndHarmless(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24")
	c := newContainer(t, "c", port("", 8080, 80))
	h.attach(n, c)
	c.serve(":80", "c")
	_, err := h.tryAttach(n, c)
	wantError(t, err, codeTaken, `"c"`, "already")
	h.wantAnswer("127.0.0.1:8080", "c")
	if err := h.check(n, c); err != nil {
		t.Errorf("CHECK: %v", err)
	}

	stranger := newContainer(t, "stranger")
	stranger.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
	_, err = h.tryAttach(n, stranger)
	wantError(t, err, codeTaken, "eth0", "already")
	if leases := h.leases("net"); len(leases) != 1 {
		t.Errorf("the addresses in use are %v", leases)
	}
}

func TestBadNamespaceIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24")
	file := filepath.Join(h.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, word := range map[string]string{"/nonexistent/ns": "no such file", file: "not a namespace", h.path: "the host's"} {
		c := newContainer(t, "c")
		c.netPath = path
		_, err := h.tryAttach(n, c)
		if err == nil || !strings.Contains(err.Error(), word) || !strings.Contains(err.Error(), path) {
			t.Errorf("ADD to %s: %v", path, err)
		}
		h.detach(n, c)
		h.wantNothing("net")
	}
}

// A bridge of another kind, or with another address, is not taken over.
func TestOccupiedBridgeNameIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.run("ip", "link", "add", "berth0", "type", "veth", "peer", "name", "peer0")
	n := h.network("net", "10.88.0.0/24")
	c := newContainer(t, "c")
	if _, err := h.tryAttach(n, c); err == nil || !strings.Contains(err.Error(), `"berth0" exists and is a veth`) {
		t.Errorf("ADD: %v", err)
	}
	h.run("ip", "link", "del", "berth0")
	h.run("ip", "link", "add", "berth0", "type", "bridge")
	h.run("ip", "address", "add", "10.99.0.1/24", "dev", "berth0")
	if _, err := h.tryAttach(n, c); err == nil || !strings.Contains(err.Error(), "10.99.0.1/24") {
		t.Errorf("ADD: %v", err)
	}
	if leases := h.leases("net"); len(leases) > 0 {
		t.Errorf("the addresses in use are %v", leases)
	}
	conf := h.bridgeConf("10.88.0.0/24")
	conf["forceAddress"] = true
	h.attach(list(t, "net", conf), c)
}

// What an old version of the protocol cannot say must not be done either.
func TestInexpressibleResultIsUndone(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	two := h.bridgeConf("10.88.0.0/24", "10.89.0.0/24")
	two["forceAddress"] = true
	for _, conf := range []object{two, {"type": "bridge", "bridge": "berth0"}} {
		c := newContainer(t, "c")
		if _, err := h.tryAttach(versionedList(t, "0.2.0", "net", conf), c); err == nil {
			t.Errorf("ADD with %v succeeds", conf)
		}
		if links := c.links(); len(links) > 0 {
			t.Errorf("the container has links %v", links)
		}
		h.wantNothing("net")
	}
}
