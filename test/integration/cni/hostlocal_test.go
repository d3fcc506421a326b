package cni_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
)

func TestRequestedAddresses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	conf := h.bridgeConf("10.88.0.0/24", "fd00:88::/64")
	conf["capabilities"] = object{"ips": true, "mac": true}
	n := list(t, "net", conf)
	byCapability := newContainer(t, "capability")
	byCapability.caps = object{"ips": []string{"10.88.0.50/24", "fd00:88::50"}, "mac": "02:00:00:00:00:50"}
	result := h.attach(n, byCapability)
	if got := []string{address(t, result, 0), address(t, result, 1)}; !slices.Equal(got, []string{"10.88.0.50", "fd00:88::50"}) {
		t.Errorf("the addresses are %v", got)
	}
	if mac := result.Interfaces[2].Mac; mac != "02:00:00:00:00:50" {
		t.Errorf("the hardware address is %s", mac)
	}
	byArgument := newContainer(t, "argument")
	byArgument.args = [][2]string{{"IP", "10.88.0.51"}}
	if got := address(t, h.attach(n, byArgument), 0); got != "10.88.0.51" {
		t.Errorf("the address is %s", got)
	}
	for ip, words := range map[string][]string{
		"10.88.0.50": {"10.88.0.50", "in use"}, "10.88.0.1": {"10.88.0.1", "gateway"}, "10.77.0.5": {"10.77.0.5", "no range"}, "nonsense": {"nonsense"},
	} {
		late := newContainer(t, "late")
		late.caps = object{"ips": []string{ip}}
		_, err := h.tryAttach(n, late)
		code := uint(codeConfig)
		if ip == "10.88.0.50" {
			code = codeTaken
		}
		wantError(t, err, code, words...)
	}
	if leases := h.leases("net"); len(leases) != 4 {
		t.Errorf("the addresses in use are %v", leases)
	}
}

// A set may have several ranges, which are used up one after the other, and the runtime may give ranges of its own.
func TestRanges(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	conf := h.bridgeConf()
	conf["capabilities"] = object{"ipRanges": true}
	resolv := filepath.Join(h.dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("# comment\nnameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch a.example b.example\noptions ndots:3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf["ipam"] = object{
		"type": "host-local", "dataDir": filepath.Join(h.dir, "leases"), "resolvConf": resolv,
		"ranges": []any{[]any{
			object{"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.10", "rangeEnd": "10.88.0.11", "gateway": "10.88.0.254"},
			object{"subnet": "10.89.0.0/24", "rangeStart": "10.89.0.20", "rangeEnd": "10.89.0.20"},
		}},
	}
	conf["forceAddress"] = true
	n := list(t, "net", conf)
	var got []string
	var last *types100.Result
	for _, id := range []string{"a", "b", "c"} {
		last = h.attach(n, newContainer(t, id))
		got = append(got, address(t, last, 0)+" "+last.IPs[0].Gateway.String())
	}
	if want := []string{"10.88.0.10 10.88.0.254", "10.88.0.11 10.88.0.254", "10.89.0.20 10.89.0.1"}; !slices.Equal(got, want) {
		t.Errorf("the addresses are %q, want %q", got, want)
	}
	if dns := last.DNS; strings.Join(dns.Nameservers, " ") != "192.0.2.53 192.0.2.54" || strings.Join(dns.Search, " ") != "a.example b.example" || strings.Join(dns.Options, " ") != "ndots:3" {
		t.Errorf("the resolver is %+v", dns)
	}
	_, err := h.tryAttach(n, newContainer(t, "d"))
	wantError(t, err, codeExhausted, "10.88.0.10-10.88.0.11, 10.89.0.20-10.89.0.20")

	given := newContainer(t, "given")
	given.caps = object{"ipRanges": []any{[]any{object{"subnet": "10.90.0.0/24"}}}}
	_, err = h.tryAttach(n, given) // the other set is still used up
	wantError(t, err, codeExhausted, "10.88.0.10")
	if leases := h.leases("net"); len(leases) != 3 {
		t.Errorf("the addresses in use are %v", leases)
	}
}

// What a crash in the middle of a reservation leaves is an empty file: nobody's.
func TestHalfWrittenReservationIsFree(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/29")
	dir := filepath.Join(h.dir, "leases/net")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"10.88.0.2": "", "10.88.0.3": "somebody\r\neth0", "last_reserved_ip.0": "nonsense"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := address(t, h.attach(n, newContainer(t, "c")), 0); got != "10.88.0.2" {
		t.Errorf("the address is %s", got)
	}
	if got := address(t, h.attach(n, newContainer(t, "d")), 0); got != "10.88.0.4" {
		t.Errorf("the address is %s", got)
	}
}

// A full disk must not leave an address that nobody has. A file system of two pages gets full at once.
func TestFullDiskLeavesNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	full := filepath.Join(h.dir, "full")
	script := `mkdir -p "$1" && mount -t tmpfs -o size=4k,nr_inodes=4 none "$1" && echo '{"cniVersion":"1.1.0","name":"net","ipam":{"type":"host-local","dataDir":"'"$1"'","subnet":"10.88.0.0/24"}}' |
		CNI_COMMAND=ADD CNI_CONTAINERID=c CNI_IFNAME=eth0 CNI_NETNS=/x "$2"/host-local; ls "$1/net"`
	output, _ := h.try("unshare", "-m", "sh", "-c", script, "sh", full, h.plugins)
	if !strings.Contains(output, "no space left") || strings.Contains(output, "\n10.88.0.2\n") {
		t.Errorf("host-local on a full disk: %s", output)
	}
}

// Reservations from before they said for which interface they are go with their container.
func TestOldReservations(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24")
	c := newContainer(t, "c")
	h.attach(n, c)
	if err := os.WriteFile(filepath.Join(h.dir, "leases/net/10.88.0.2"), []byte("c"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.check(n, c); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	h.detach(n, c)
	h.wantNothing("net")
}
