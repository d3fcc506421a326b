package cni_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// CHECK notices whatever somebody else takes away.
func TestCheckNoticesDamage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		damage func(h *host, c *container, veth string)
		word   string
	}{
		{"bridge gone", func(h *host, _ *container, _ string) { h.run("ip", "link", "del", "berth0") }, "berth0"},
		{"gateway gone", func(h *host, _ *container, _ string) { h.run("ip", "address", "flush", "dev", "berth0") }, "10.88.0.1"},
		{"veth gone", func(h *host, _ *container, veth string) { h.run("ip", "link", "del", veth) }, "veth"},
		{"veth off the bridge", func(h *host, _ *container, veth string) { h.run("ip", "link", "set", veth, "nomaster") }, "not on bridge"},
		{"veth down", func(h *host, _ *container, veth string) { h.run("ip", "link", "set", veth, "down") }, "down"},
		{"interface down", func(_ *host, c *container, _ string) { c.run("ip", "link", "set", "eth0", "down") }, "eth0"},
		{"interface renamed", func(_ *host, c *container, _ string) {
			c.run("ip", "link", "set", "eth0", "down")
			c.run("ip", "link", "set", "eth0", "name", "eth1")
		}, "eth0"},
		{"hardware address changed", func(_ *host, c *container, _ string) {
			c.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:01")
		}, "02:00:00:00:00:01"},
		{"address gone", func(_ *host, c *container, _ string) {
			c.run("ip", "address", "add", "10.88.0.77/24", "dev", "eth0")
			c.run("ip", "address", "del", "10.88.0.2/24", "dev", "eth0")
		}, "10.88.0.2"},
		{"IPv6 address gone", func(_ *host, c *container, _ string) { c.run("ip", "address", "del", "fd00:88::2/64", "dev", "eth0") }, "fd00:88::2"},
		{"default route gone", func(_ *host, c *container, _ string) { c.run("ip", "route", "del", "default") }, "0.0.0.0/0"},
		{"IPv6 default route gone", func(_ *host, c *container, _ string) { c.run("ip", "-6", "route", "del", "default") }, "::/0"},
		{"reservation gone", func(h *host, _ *container, _ string) { h.run("rm", filepath.Join(h.dir, "leases/net/10.88.0.2")) }, "10.88.0.2"},
		{"masquerading gone", func(h *host, _ *container, _ string) { h.run("nft", "flush", "set", "inet", "berth", "masq4") }, "masq4"},
		{"port gone", func(h *host, _ *container, _ string) { h.run("nft", "flush", "map", "inet", "berth", "anyport4") }, "anyport4"},
		{"port changed", func(h *host, _ *container, _ string) {
			h.run("nft", "flush map inet berth anyport4; add element inet berth anyport4 { tcp . 8080 comment \"net c eth0\" : 10.88.0.9 . 80 }")
		}, "anyport4"},
		{"policy gone", func(h *host, _ *container, _ string) { h.run("nft", "flush", "set", "inet", "berth", "bridged4") }, "bridged4"},
		{"table gone", func(h *host, _ *container, _ string) { h.run("nft", "delete", "table", "inet", "berth") }, "berth"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t)
			n := h.network("net", "10.88.0.0/24", "fd00:88::/64")
			c := newContainer(t, "c", port("", 8080, 80))
			result := h.attach(n, c)
			if err := h.check(n, c); err != nil {
				t.Fatalf("CHECK before the damage: %v", err)
			}
			test.damage(h, c, result.Interfaces[1].Name)
			if err := h.check(n, c); err == nil || !strings.Contains(err.Error(), test.word) {
				t.Errorf("CHECK says %v, want something about %q", err, test.word)
			}
			h.detach(n, c) // succeeds all the same
			h.wantNothing("net")
		})
	}
}

// When a container's namespace is gone, DEL still removes what is on the host.
func TestDelWithoutNamespace(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24")
	for id, path := range map[string]string{"closed": "/proc/1/fd/99999", "unnamed": ""} {
		c := newContainer(t, id, port("", 8080, 80))
		h.attach(n, c)
		conf := c.runtimeConf()
		conf.NetNS = path
		var err error
		h.do(func() { err = h.cni.DelNetworkList(context.Background(), n, conf) })
		if err != nil {
			t.Errorf("DEL: %v", err)
		}
		h.wantNothing("net")
	}
}

// GC leaves exactly the attachments that are valid, of the network that it is for.
func TestGC(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24", "fd00:88::/64")
	conf := h.bridgeConf("10.99.0.0/24")
	conf["bridge"] = "berth1"
	neighbour := list(t, "neighbour", conf, portmapConf(), firewallConf())
	keep, lost, same := newContainer(t, "keep", port("", 8080, 80)), newContainer(t, "lost", port("", 8081, 80)), newContainer(t, "lost", port("", 8082, 80))
	address(t, h.attach(n, keep), 0)
	h.attach(n, lost)
	h.attach(neighbour, same)
	keep.serve(":80", "keep")
	same.serve(":80", "same")

	// The caller has forgotten: libcni must not know what to DEL.
	h.use(h.plugins)
	h.run("rm", "-r", filepath.Join(h.dir, "cache"))
	var err error
	h.do(func() {
		err = h.cni.GCNetworkList(context.Background(), n, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "keep", IfName: "eth0"}}})
	})
	if err != nil {
		t.Fatalf("GC: %v", err)
	}
	if leases := h.leases("net"); !slices.Equal(leases, []string{"10.88.0.2", "fd00:88::2"}) {
		t.Errorf("the addresses in use are %v", leases)
	}
	if leases := h.leases("neighbour"); len(leases) != 1 {
		t.Errorf("the neighbour's addresses are %v", leases)
	}
	for _, entry := range h.entries("berth") {
		if strings.Contains(entry, `"net lost eth0"`) {
			t.Errorf("an entry of the lost container is left: %s", entry)
		}
	}
	if links := lost.links(); len(links) > 0 {
		t.Errorf("the lost container has links %v", links)
	}
	h.wantAnswer("127.0.0.1:8080", "keep")
	h.wantAnswer("127.0.0.1:8082", "same")
	h.wantSilence("127.0.0.1:8081")
}
