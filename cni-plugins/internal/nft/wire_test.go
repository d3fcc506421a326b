package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func TestElementsSurviveTheWire(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd00::2")
	for _, element := range []Element{
		OnLink(SetMasquerade, v4, "berth0", "net c eth0"),
		OnLink(SetMasquerade, v6, "a-name-of-15-by", "net c eth0"),
		Self(SetSelf, v4, "o"),
		Port(netip.MustParseAddrPort("127.0.0.1:8080"), unix.IPPROTO_TCP, netip.AddrPortFrom(v4, 80), "net c eth0"),
		Port(netip.MustParseAddrPort("[::]:53"), unix.IPPROTO_UDP, netip.AddrPortFrom(v6, 53), "net c eth0"),
	} {
		// What goes out has the comment's length and its end; what comes back is the same.
		back, err := decode(element.Set, element.encode(true))
		if err != nil || !reflect.DeepEqual(back, element) {
			t.Errorf("%+v came back as %+v (%v)", element, back, err)
		}
		for cut := range len(element.encode(true)) {
			_, _ = decode(element.Set, element.encode(true)[:cut]) // must not panic
		}
	}
}

func TestMessagesAreChunked(t *testing.T) {
	var elements []Element
	for i := range 2*chunk + 1 {
		elements = append(elements, Element{Set: SetAnyPort + "4", Key: binary.BigEndian.AppendUint32(nil, uint32(i)), Data: make([]byte, 8), Owner: fmt.Sprint("net c", i, " eth0")})
	}
	messages := elementMessages(newElement, 0, "berth", SetAnyPort+"4", elements)
	if len(messages) != 3 {
		t.Errorf("there are %d messages", len(messages))
	}
	for _, m := range messages {
		if len(m.body) >= 1<<16 {
			t.Errorf("a message has %d bytes, which its list's length cannot say", len(m.body))
		}
	}
}

func TestHostPort(t *testing.T) {
	target := netip.MustParseAddrPort("10.88.0.2:80")
	for _, host := range []string{"127.0.0.1:8080", "0.0.0.0:8080"} {
		protocol, port, ok := Port(netip.MustParseAddrPort(host), unix.IPPROTO_UDP, target, "o").HostPort()
		if !ok || protocol != unix.IPPROTO_UDP || port != 8080 {
			t.Errorf("%s is protocol %d port %d (%v)", host, protocol, port, ok)
		}
	}
	if _, _, ok := OnLink(SetMasquerade, target.Addr(), "berth0", "o").HostPort(); ok {
		t.Error("an entry of a set has a port")
	}
}

func TestTableNames(t *testing.T) {
	for name, want := range map[string]bool{"": true, "berth-bench_1.2": true, "a b": false, "a;flush ruleset": false, "ä": false} {
		if _, err := Named(name, nil); (err == nil) != want {
			t.Errorf("table name %q: %v", name, err)
		}
	}
}
