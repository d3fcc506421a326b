package networks

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func TestPublishedPorts(t *testing.T) {
	cases := []struct {
		spec    *berthv1.NetworkSpec
		exposed []string
		want    string
		class   error
	}{
		{&berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{{ContainerPort: 80, HostPort: 8080}}}, []string{"81"}, "[0.0.0.0:8080/tcp]", nil},
		{&berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{{ContainerPort: 80, HostPort: 1, HostIp: "127.0.0.2", Protocol: "udp"}}}, nil, "[127.0.0.2:1/udp]", nil},
		{
			&berthv1.NetworkSpec{PublishAll: true, Ports: []*berthv1.PortMapping{{ContainerPort: 80, HostPort: 8080}}, ExposedPorts: []string{"53/udp"}},
			[]string{"80/tcp", "53/udp"},
			"[0.0.0.0:8080/tcp 0.0.0.0:0/udp]", nil,
		},
		{&berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{{HostPort: 8080}}}, nil, "", errdefs.ErrInvalidArgument},
		{&berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{{ContainerPort: 70000}}}, nil, "", errdefs.ErrInvalidArgument},
		{&berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{{ContainerPort: 80, HostPort: 70000}}}, nil, "", errdefs.ErrInvalidArgument},
		{&berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{{ContainerPort: 80, Protocol: "icmp"}}}, nil, "", errdefs.ErrInvalidArgument},
		{&berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{{ContainerPort: 80, HostIp: "here"}}}, nil, "", errdefs.ErrInvalidArgument},
		{&berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{{ContainerPort: 80, HostIp: "::1"}}}, nil, "", errdefs.ErrUnimplemented},
		{&berthv1.NetworkSpec{PublishAll: true}, []string{"http"}, "", errdefs.ErrInvalidArgument},
	}
	for _, c := range cases {
		got, err := publishedPorts(c.spec, c.exposed)
		if !errors.Is(err, c.class) || err == nil && fmt.Sprint(got) != c.want {
			t.Errorf("%v with %q: got %v, %v, want %s, %v", c.spec, c.exposed, got, err, c.want, c.class)
		}
	}
}

func TestHeldPortsAreTaken(t *testing.T) {
	for _, protocol := range []string{"tcp", "udp"} {
		p := newPorts()
		chosen, err := p.hold("one", []port{{HostIP: "127.0.0.1", ContainerPort: 80, Protocol: protocol}})
		if err != nil || chosen[0].HostPort == 0 || !chosen[0].Held {
			t.Fatalf("%s: got %v, %v", protocol, chosen, err)
		}
		if _, err := p.hold("two", chosen); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("%s: a port that is held can be held twice: %v", protocol, err)
		}
		address := fmt.Sprintf("127.0.0.1:%d", chosen[0].HostPort)
		if listens(protocol, address) {
			t.Errorf("%s: somebody else can listen on %s", protocol, address)
		}
		p.release("one")
		if !listens(protocol, address) {
			t.Errorf("%s: nobody else can listen on %s after its release", protocol, address)
		}
	}
}

func listens(protocol, address string) bool {
	if protocol == "udp" {
		conn, err := net.ListenPacket(protocol, address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	listener, err := net.Listen(protocol, address)
	if err == nil {
		_ = listener.Close()
	}
	return err == nil
}

// Connections that a server of the host has had are no reason to refuse its port.
func TestPortWithOldConnectionsIsFree(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	// The server closes first, so the waiting is on its side.
	_ = server.Close()
	_, _ = client.Read(make([]byte, 1))
	_ = client.Close()
	_ = listener.Close()
	p := newPorts()
	wanted := []port{{HostIP: "127.0.0.1", HostPort: uint32(listener.Addr().(*net.TCPAddr).Port), ContainerPort: 80, Protocol: "tcp"}}
	if _, err := p.hold("one", wanted); err != nil {
		t.Error(err)
	}
	p.releaseAll()
}

// Of many ports no more are held than leaves descriptors for everything else. The others are tried, and published all the same.
func TestHeldPortsAreBounded(t *testing.T) {
	p := newPorts()
	p.most = 2
	var wanted []port
	for inside := range uint32(4) {
		wanted = append(wanted, port{HostIP: "127.0.0.1", ContainerPort: 80 + inside, Protocol: "tcp"})
	}
	chosen, err := p.hold("many", wanted)
	if err != nil {
		t.Fatal(err)
	}
	held := 0
	for _, c := range chosen {
		if c.HostPort == 0 {
			t.Errorf("%v has no port", c)
		}
		if c.Held {
			held++
		}
	}
	if held != 2 || len(p.held["many"]) != 2 {
		t.Errorf("%d ports are held by %d sockets", held, len(p.held["many"]))
	}
	p.release("many")
	if p.count != 0 {
		t.Errorf("%d sockets are counted after the release", p.count)
	}
}
