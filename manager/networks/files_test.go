package networks

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func TestParseResolvers(t *testing.T) {
	const content = "# comment\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver fe80::1\nnameserver rubbish\nsearch a.example b.example\noptions ndots:2 edns0\n"
	own := parseResolvers(content, false)
	if !slices.Equal(own.servers, []string{"10.0.0.1", "fe80::1"}) || !slices.Equal(own.search, []string{"a.example", "b.example"}) ||
		!slices.Equal(own.options, []string{"ndots:2", "edns0"}) {
		t.Errorf("with a network of its own: %+v", own)
	}
	if shared := parseResolvers(content, true); !slices.Contains(shared.servers, "127.0.0.53") {
		t.Errorf("with the host's network: %+v", shared)
	}
}

func TestResolvConfTakesWhatTheSpecSays(t *testing.T) {
	got, err := (&Service{}).ResolvConf(&berthv1.NetworkSpec{
		DnsServers: []string{"192.0.2.1"}, DnsSearch: []string{"."}, DnsOptions: []string{"ndots:5"},
	})
	if want := "nameserver 192.0.2.1\noptions ndots:5\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestHosts(t *testing.T) {
	got, err := (&Service{}).Hosts(HostsRequest{
		Hostname: "web", Domainname: "example.org",
		Spec:      &berthv1.NetworkSpec{ExtraHosts: []string{"db:192.0.2.7", "six:2001:db8::1", "home:host-gateway"}},
		Endpoints: []*berthv1.EndpointState{{Addresses: []string{"10.1.0.2/16"}, Gateways: []string{"10.1.0.1"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"127.0.0.1\tlocalhost\n", "192.0.2.7\tdb\n", "2001:db8::1\tsix\n", "10.1.0.1\thome\n", "10.1.0.2\tweb.example.org web\n",
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	for _, bad := range []string{"db", "db:", ":192.0.2.1", "db:nowhere", "d b:192.0.2.1", "db\n:192.0.2.1"} {
		if _, _, err := parseExtraHost(bad); err == nil {
			t.Errorf("%q is taken for a host", bad)
		}
	}
}

// What can't be written into the container's files, or given to its interface, is refused before there is a container.
func TestValidateRefuses(t *testing.T) {
	for _, spec := range []*berthv1.NetworkSpec{
		{DnsSearch: []string{"example.org\nnameserver 192.0.2.1"}},
		{DnsSearch: []string{""}},
		{DnsOptions: []string{"ndots:1 debug"}},
		{MacAddress: "no address"},
		{MacAddress: "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01"},
	} {
		if err := (&Service{}).Validate(spec); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%v: %v", spec, err)
		}
	}
	if err := (&Service{}).Validate(&berthv1.NetworkSpec{DnsSearch: []string{"."}, DnsOptions: []string{"ndots:1"}, MacAddress: "02:42:ac:11:00:02"}); err != nil {
		t.Error(err)
	}
}
