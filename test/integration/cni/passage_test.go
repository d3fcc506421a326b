package cni_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/berthd/berth/test/testenv"
)

// Other firewalls drop what they do not know: dockerd and ufw by the policy of iptables' chain FORWARD, others by its last rule. The
// bridge gets rules there, behind those that the administrator has, and iptables can still read the chain.
func TestFirewallsThatDropLetContainersPass(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, program, script string }{
		{"policy", "iptables-nft", "$I -P FORWARD DROP"},
		{"last rule", "iptables-nft", "$I -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT; $I -A FORWARD -j REJECT"},
		{"legacy policy", "iptables-legacy", "$I -P FORWARD DROP"},
		{"legacy last rule", "iptables-legacy", "$I -A FORWARD -s 203.0.113.1 -j ACCEPT; $I -A FORWARD -j REJECT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			program := testenv.Peer(t, c.program)
			h := newHost(t)
			if output, err := h.try(program, "-S", "FORWARD"); err != nil {
				t.Skipf("%s does not work on this kernel: %s", c.program, output)
			}
			h.run("sh", "-c", "set -e; I="+program+"; $I -A FORWARD -d 192.0.2.77 -j DROP; "+c.script)
			before := h.run(program, "-S", "FORWARD")
			out := h.outside()
			out.run("ip", "address", "add", "192.0.2.77/24", "dev", "eth0")
			out.serve(":80", "outside")
			n := h.network("net", "10.88.0.0/24")
			web := newContainer(t, "web", port("", 8080, 80))
			h.attach(n, web)
			web.serve(":80", "web")
			web.wantAnswer("192.0.2.2:80", "outside")
			web.wantSilence("192.0.2.77:80") // what the administrator drops stays dropped
			out.wantAnswer("192.0.2.1:8080", "web")
			h.attach(n, newContainer(t, "second"))
			added := lines(h.run(program, "-S", "FORWARD"), before)
			slices.Sort(added)
			if len(added) != 2 || !strings.Contains(added[0], "-i berth0") || !strings.Contains(added[1], "-o berth0") || !strings.Contains(added[0], "berth: berth0") {
				t.Errorf("the rules %q were added to\n%s", added, before)
			}
		})
	}
}

// lines returns those of text that are not in other.
func lines(text, other string) []string {
	var found []string
	for line := range strings.Lines(text) {
		if !strings.Contains(other, line) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// A chain that drops nothing gets no rules.
func TestFirewallsThatAcceptAreLeftAlone(t *testing.T) {
	t.Parallel()
	program := testenv.Peer(t, "iptables-nft")
	h := newHost(t)
	h.run(program, "-A", "FORWARD", "-s", "203.0.113.1", "-j", "DROP")
	before := h.run(program, "-S")
	n := h.network("net", "10.88.0.0/24")
	h.attach(n, newContainer(t, "c"))
	if after := h.run(program, "-S"); after != before {
		t.Errorf("iptables has\n%s", after)
	}
}

// The marks of a bridge that berth made are on it, and a bridge that somebody else made is used as it is.
func TestBridgesSayWhoMadeThem(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.run("ip", "link", "add", "own0", "type", "bridge")
	for bridge, made := range map[string]bool{"berth0": true, "own0": false} {
		conf := h.bridgeConf("10.88.0.0/24")
		conf["bridge"] = bridge
		n := list(t, bridge, conf)
		c := newContainer(t, bridge)
		h.attach(n, c)
		if marked := strings.Contains(h.run("ip", "link", "show", bridge), "alias made by berth"); marked != made {
			t.Errorf("bridge %s is marked: %v", bridge, marked)
		}
		var err error
		h.do(func() {
			err = h.cni.GCNetworkList(t.Context(), n, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: bridge, IfName: "eth0"}}})
		})
		if err != nil {
			t.Errorf("GC: %v", err)
		}
		h.detach(n, c)
		h.run("ip", "link", "delete", bridge)
	}
}

// Where firewalld runs, which its table shows, a new bridge becomes an interface of the zone trusted. What firewalld itself does with that is
// not tested here: its program is a stand-in that writes down how it is called.
func TestFirewalldIsAskedForTheBridge(t *testing.T) {
	dir := testenv.ShortDir(t)
	calls := filepath.Join(dir, "calls")
	standIn := "#!/bin/sh\necho \"$@\" >>" + calls + "\ncase \"$*\" in *--query-interface*) exit 1 ;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "firewall-cmd"), []byte(standIn), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	h := newHost(t)
	h.run("nft", "add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; }")
	n := h.network("net", "10.88.0.0/24")
	h.attach(n, newContainer(t, "c"))
	h.attach(n, newContainer(t, "second"))
	said, err := os.ReadFile(calls)
	if want := "--zone=trusted --query-interface=berth0\n--zone=trusted --change-interface=berth0\n"; err != nil || string(said) != want {
		t.Errorf("firewall-cmd was called as\n%s(%v), want\n%s", said, err, want)
	}
}
