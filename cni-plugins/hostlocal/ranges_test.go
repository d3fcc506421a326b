package hostlocal

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func rangeOf(subnet, start, end string) addressRange {
	r := addressRange{Subnet: netip.MustParsePrefix(subnet)}
	r.RangeStart, _ = netip.ParseAddr(start)
	r.RangeEnd, _ = netip.ParseAddr(end)
	return r
}

func TestRangeIsCompleted(t *testing.T) {
	for _, test := range []struct{ subnet, start, end, want, gateway string }{
		{"10.1.0.0/24", "", "", "10.1.0.1-10.1.0.254", "10.1.0.1"},
		{"10.1.0.0/30", "", "", "10.1.0.1-10.1.0.2", "10.1.0.1"},
		{"10.1.0.128/25", "10.1.0.200", "", "10.1.0.200-10.1.0.254", "10.1.0.129"},
		{"10.1.0.0/24", "10.1.0.0", "10.1.0.255", "10.1.0.1-10.1.0.254", "10.1.0.1"},
		{"10.1.0.0/16", "10.1.5.0", "10.1.5.255", "10.1.5.0-10.1.5.255", "10.1.0.1"},
		{"fd00::/64", "", "", "fd00::1-fd00::ffff:ffff:ffff:ffff", "fd00::1"},
		{"fd00::/126", "", "fd00::2", "fd00::1-fd00::2", "fd00::1"},
	} {
		got, err := rangeOf(test.subnet, test.start, test.end).complete()
		if err != nil || got.String() != test.want || got.Gateway.String() != test.gateway {
			t.Errorf("%s %s %s is %s with gateway %s (%v), want %s and %s", test.subnet, test.start, test.end, got, got.Gateway, err, test.want, test.gateway)
		}
	}
}

func TestWalkGoesOnceAroundTheSet(t *testing.T) {
	set, err := newRangeSet([]addressRange{rangeOf("10.1.0.0/29", "10.1.0.2", "10.1.0.4"), rangeOf("10.2.0.0/29", "10.2.0.5", "10.2.0.6")})
	if err != nil {
		t.Fatal(err)
	}
	for last, want := range map[string]string{
		"":         "10.1.0.2 10.1.0.3 10.1.0.4 10.2.0.5 10.2.0.6",
		"10.9.9.9": "10.1.0.2 10.1.0.3 10.1.0.4 10.2.0.5 10.2.0.6",
		"10.1.0.2": "10.1.0.3 10.1.0.4 10.2.0.5 10.2.0.6 10.1.0.2",
		"10.1.0.4": "10.2.0.5 10.2.0.6 10.1.0.2 10.1.0.3 10.1.0.4",
		"10.2.0.5": "10.2.0.6 10.1.0.2 10.1.0.3 10.1.0.4 10.2.0.5",
		"10.2.0.6": "10.1.0.2 10.1.0.3 10.1.0.4 10.2.0.5 10.2.0.6",
	} {
		address, _ := netip.ParseAddr(last)
		var got []string
		for a := range set.after(address) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("behind %q come %v, want %s", last, got, want)
		}
	}
}

func TestPickTakesWhatIsWanted(t *testing.T) {
	set, err := newRangeSet([]addressRange{rangeOf("10.1.0.0/29", "", "")})
	if err != nil {
		t.Fatal(err)
	}
	used := leases{netip.MustParseAddr("10.1.0.2"): "x"}
	none := func() netip.Addr { return netip.Addr{} }
	wanted := []netip.Addr{netip.MustParseAddr("10.9.0.4"), netip.MustParseAddr("10.1.0.5")}
	got, _, err := set.pick(&wanted, used, none)
	if err != nil || got.String() != "10.1.0.5" || !slices.Equal(wanted, []netip.Addr{netip.MustParseAddr("10.9.0.4")}) {
		t.Errorf("picked %s (%v), and %v is still wanted", got, err, wanted)
	}
	for address, word := range map[string]string{"10.1.0.1": "gateway", "10.1.0.2": "in use"} {
		wanted := []netip.Addr{netip.MustParseAddr(address)}
		if _, _, err := set.pick(&wanted, used, none); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, want something about %q", address, err, word)
		}
	}
	if got, _, err := set.pick(nil, used, none); err != nil || got.String() != "10.1.0.3" {
		t.Errorf("picked %s (%v), want the first that is free and not the gateway", got, err)
	}
}
