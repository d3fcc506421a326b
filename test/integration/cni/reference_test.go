package cni_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

// referencePlugins is where Debian's containernetworking-plugins are.
const referencePlugins = "/usr/lib/cni"

func needReference(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(referencePlugins, "bridge")); err != nil {
		t.Skip("needs Debian's containernetworking-plugins, which is not installed (make deps installs it)")
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skip("needs iptables, which the reference plugins execute")
	}
}

// pair runs f on a host with each side's plugins and returns what it returns for ours and for the reference.
func pair[T any](t *testing.T, f func(t *testing.T, h *host) T) (ours, theirs T) {
	t.Helper()
	needReference(t)
	h := newHost(t)
	ours = f(t, h)
	h = newHost(t)
	h.use(referencePlugins)
	return ours, f(t, h)
}

// normal replaces what differs between any two attachments: hardware addresses, names of veths, paths, indexes of links.
func normal(text string) string {
	for _, replace := range [][2]string{
		{`[0-9a-f]{2}(:[0-9a-f]{2}){5}`, "MAC"},
		{`veth[0-9a-f]+`, "VETH"},
		{`/proc/\d+/fd/\d+`, "NETNS"},
		{`@if\d+`, "@if"},
		{`(?m)^\d+: `, ""},
		{`fe80::[0-9a-f:]+`, "LINKLOCAL"},
		{`link-netnsid \d+`, ""},
		{`pref medium`, ""},
		{` nodad`, ""},
		{` tentative`, ""},
		{`(?m) +$`, ""},
		{`\\n`, ""},
		{`state (UP|LOWERLAYERDOWN)`, "state"},
		{`NO-CARRIER,|,LOWER_UP`, ""},
	} {
		text = regexp.MustCompile(replace[0]).ReplaceAllString(text, replace[1])
	}
	return text
}

// chains are the networks to compare, without what the reference has no counterpart for.
func chains(h *host) map[string][]object {
	edit := func(changes object, subnets ...string) object {
		conf := h.bridgeConf(subnets...)
		for key, value := range changes {
			conf[key] = value
		}
		return conf
	}
	routes := edit(object{"isDefaultGateway": false}, "10.88.0.0/24") // with which the reference tries to add the default route twice
	routes["ipam"].(object)["routes"] = []any{object{"dst": "0.0.0.0/0"}, object{"dst": "198.51.100.0/24", "gw": "10.88.0.7"}}
	return map[string][]object{
		"gateway":     {edit(nil, "10.88.0.0/24")},
		"dual stack":  {edit(nil, "10.88.0.0/24", "fd00:88::/64")},
		"plain":       {edit(object{"isGateway": false, "isDefaultGateway": false, "ipMasq": false}, "10.88.0.0/24")},
		"routes":      {routes},
		"MTU":         {edit(object{"mtu": 1400, "hairpinMode": false, "promiscMode": true}, "10.88.0.0/24")},
		"no ipam":     {{"type": "bridge", "bridge": "berth0"}},
		"dns":         {edit(object{"dns": object{"nameservers": []string{"192.0.2.53"}, "domain": "example", "search": []string{"a.example"}}}, "10.88.0.0/24")},
		"whole chain": {edit(nil, "10.88.0.0/24"), portmapConf(), firewallConf()},
	}
}

type outcome struct {
	Result object
	Inside string
}

func TestResultsEqualTheReference(t *testing.T) {
	t.Parallel()
	needReference(t)
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0"} {
		for name := range chains(newHost(t)) {
			t.Run(version+"/"+name, func(t *testing.T) {
				ours, theirs := pair(t, func(t *testing.T, h *host) outcome {
					plugins := chains(h)[name]
					if version == "0.3.1" && len(plugins) > 2 {
						plugins = plugins[:2] // the reference's firewall has no such version
					}
					n := versionedList(t, version, "net", plugins...)
					c := newContainer(t, "c", port("", 8080, 80))
					c.sysctl("net.ipv6.conf.default.accept_dad", "0") // or else the reference's link-local addresses are tentative
					text, err := json.Marshal(h.attach(n, c))
					if err != nil {
						t.Fatal(err)
					}
					var result object
					if err := json.Unmarshal([]byte(normal(string(text))), &result); err != nil {
						t.Fatal(err)
					}
					inside := normal(c.run("ip", "-o", "address", "show", "dev", "eth0", "scope", "global") + c.run("ip", "route") + c.run("ip", "-6", "route", "show", "default"))
					h.detach(n, c)
					h.detach(n, c)
					return outcome{result, inside}
				})
				if !reflect.DeepEqual(ours.Result, theirs.Result) {
					t.Errorf("the results differ:\n ours   %v\n theirs %v", ours.Result, theirs.Result)
				}
				if ours.Inside != theirs.Inside {
					t.Errorf("the insides differ:\nours\n%stheirs\n%s", ours.Inside, theirs.Inside)
				}
			})
		}
	}
}

// Traffic takes the same ways. With br_netfilter ours keeps the source of what one container sends to another's published port.
func TestTrafficEqualsTheReference(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"0", "1"} {
		ours, theirs := pair(t, func(t *testing.T, h *host) map[string]string { return ways(t, h, setting) })
		for way, answer := range theirs {
			if setting == "1" && strings.HasPrefix(way, "other") && answer == "web 10.88.0.1" {
				answer = "web 10.88.0.3"
			}
			if ours[way] != answer {
				t.Errorf("bridge-nf-call-iptables=%s, %s: answers %q, and with the reference %q", setting, way, ours[way], answer)
			}
		}
	}
}

// ways tells who answers at an address, and which source it sees, from several sides.
func ways(t *testing.T, h *host, bridgeNetfilter string) map[string]string {
	setBridgeNetfilter(h, bridgeNetfilter)
	out := h.outside()
	out.serve(":80", "outside")
	n := versionedList(t, "1.0.0", "net", h.bridgeConf("10.88.0.0/24"), portmapConf(), firewallConf())
	web, other := newContainer(t, "web", port("", 8080, 80), port("127.0.0.1", 8081, 80)), newContainer(t, "other")
	h.attach(n, web)
	h.attach(n, other)
	web.serve(":80", "web")
	seen := map[string]string{}
	for from, side := range map[string]*namespace{"host": h.namespace, "web": web.namespace, "other": other.namespace, "outside": out} {
		for _, at := range []string{"127.0.0.1:8080", "127.0.0.1:8081", "10.88.0.1:8080", "192.0.2.1:8080", "192.0.2.1:8081", "192.0.2.2:80", "10.88.0.2:80"} {
			if from == "outside" && (strings.HasPrefix(at, "10.") || at == "192.0.2.2:80") {
				continue
			}
			name, source, err := side.get(at)
			if err != nil {
				name = "nobody"
			}
			seen[from+" at "+at] = name + " " + source
		}
	}
	return seen
}

// What the reference refuses, ours refuses too, and where the specification has a code it is the same.
func TestRefusalsEqualTheReference(t *testing.T) {
	t.Parallel()
	needReference(t)
	for name, change := range map[string]object{
		"hairpin and promiscuous": {"promiscMode": true},
		"no subnet":               {"ipam": object{"type": "host-local"}},
		"start outside":           {"ipam": object{"type": "host-local", "subnet": "10.88.0.0/24", "rangeStart": "10.99.0.1"}},
		"host bits":               {"ipam": object{"type": "host-local", "subnet": "10.88.0.1/24"}},
		"too small":               {"ipam": object{"type": "host-local", "subnet": "10.88.0.0/31"}},
		"no such ipam":            {"ipam": object{"type": "no-such-plugin"}},
		"bridge name":             {"bridge": "a-bridge-with-a-long-name"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t, func(t *testing.T, h *host) bool {
				conf := h.bridgeConf("10.88.0.0/24")
				for key, value := range change {
					conf[key] = value
				}
				_, err := h.tryAttach(versionedList(t, "1.0.0", "net", conf), newContainer(t, "c"))
				return err != nil
			})
			if !ours || !theirs {
				t.Errorf("refused by ours: %v, by the reference: %v", ours, theirs)
			}
		})
	}
	for name, environ := range map[string][]string{
		"no container":  {"CNI_COMMAND=ADD", "CNI_IFNAME=lo", "CNI_NETNS=/x"},
		"bad container": {"CNI_COMMAND=ADD", "CNI_IFNAME=lo", "CNI_NETNS=/x", "CNI_CONTAINERID=a/b"},
		"bad interface": {"CNI_COMMAND=DEL", "CNI_IFNAME=a/b", "CNI_CONTAINERID=c"},
	} {
		ours, theirs := pair(t, func(t *testing.T, h *host) any {
			answer, ok := h.call("loopback", `{"cniVersion":"1.0.0","name":"net","type":"loopback"}`, environ...)
			if ok {
				t.Errorf("%s is no error", name)
			}
			return answer["code"]
		})
		if ours != theirs {
			t.Errorf("%s: code %v, and with the reference %v", name, ours, theirs)
		}
	}
}

// The reservations are the same files, so that a host can change from one implementation to the other with containers running.
func TestReservationsAreShared(t *testing.T) {
	t.Parallel()
	needReference(t)
	h := newHost(t)
	own := h.plugins
	conf := h.bridgeConf("10.88.0.0/24")
	n := versionedList(t, "1.0.0", "net", conf)
	var list []*container
	for i, plugins := range []string{own, referencePlugins, own, referencePlugins} {
		h.use(plugins)
		c := newContainer(t, string(rune('a'+i)))
		h.attach(n, c)
		list = append(list, c)
	}
	if leases := strings.Join(h.leases("net"), " "); leases != "10.88.0.2 10.88.0.3 10.88.0.4 10.88.0.5" {
		t.Errorf("the addresses in use are %s", leases)
	}
	h.use(own)
	for _, c := range []*container{list[1], list[2]} {
		h.releaseOnly(n, c)
	}
	h.use(referencePlugins)
	for _, c := range []*container{list[0], list[3]} {
		h.releaseOnly(n, c)
	}
	if leases := h.leases("net"); len(leases) > 0 {
		t.Errorf("addresses are left: %v", leases)
	}
}

// releaseOnly calls the DEL of host-local alone.
func (h *host) releaseOnly(n *libcni.NetworkConfigList, c *container) {
	h.t.Helper()
	var conf object
	if err := json.Unmarshal(n.Plugins[0].Bytes, &conf); err != nil {
		h.t.Fatal(err)
	}
	conf["name"], conf["cniVersion"] = n.Name, n.CNIVersion
	text, err := json.Marshal(conf)
	if err != nil {
		h.t.Fatal(err)
	}
	answer, ok := h.call("host-local", string(text), "CNI_COMMAND=DEL", "CNI_CONTAINERID="+c.id, "CNI_IFNAME=eth0", "CNI_NETNS="+c.path)
	if !ok {
		h.t.Errorf("DEL of %s: %v", c.id, answer)
	}
}

// An IPAM plugin that is not ours is executed, for every command.
func TestForeignIPAM(t *testing.T) {
	t.Parallel()
	needReference(t)
	h := newHost(t)
	h.use(h.plugins + ":" + referencePlugins)
	conf := h.bridgeConf()
	conf["ipam"] = object{"type": "static", "addresses": []any{object{"address": "10.88.0.7/24", "gateway": "10.88.0.1"}}, "routes": []any{object{"dst": "0.0.0.0/0"}}}
	n := versionedList(t, "1.0.0", "net", conf, portmapConf(), firewallConf())
	c := newContainer(t, "c", port("", 8080, 80))
	if got := address(t, h.attach(n, c), 0); got != "10.88.0.7" {
		t.Errorf("the address is %s", got)
	}
	c.serve(":80", "c")
	h.wantAnswer("127.0.0.1:8080", "c")
	if err := h.check(n, c); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	h.detach(n, c)
	h.wantNothing("net")
}
