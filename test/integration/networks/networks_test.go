package networks_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

func publish(hostIP string, hostPort uint32) *berthv1.NetworkSpec {
	return &berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{{HostIp: hostIP, HostPort: hostPort, ContainerPort: 80}}}
}

func TestPublishedPortAnswers(t *testing.T) {
	h := newHost(t)
	everywhere := h.run("everywhere", serve, publish("", 0))
	loopback := h.run("loopback", serve, publish("127.0.0.1", 0))
	for _, c := range []*berthv1.Container{everywhere, loopback} {
		if len(c.GetPorts()) != 1 || c.GetPorts()[0].GetHostPort() == 0 {
			t.Fatalf("%s has the ports %v", c.GetName(), c.GetPorts())
		}
		if got := get(t, published(c.GetPorts()[0])); got != c.GetName() {
			t.Errorf("the port of %s answers %q", c.GetName(), got)
		}
	}
	// From another container, through the host's address.
	gateway := everywhere.GetEndpoints()[0].GetGateways()[0]
	port := strings.TrimPrefix(published(everywhere.GetPorts()[0]), "127.0.0.1")
	if got := h.mustExec("loopback", "wget", "-qO-", "http://"+gateway+port+"/"); strings.TrimSpace(got) != "everywhere" {
		t.Errorf("from a container the port answers %q", got)
	}
	// And from itself.
	if got := h.mustExec("everywhere", "wget", "-qO-", "http://"+gateway+port+"/"); strings.TrimSpace(got) != "everywhere" {
		t.Errorf("from the container itself the port answers %q", got)
	}
}

func TestPublishAllTakesExposedPorts(t *testing.T) {
	h := newHost(t)
	c := h.run("all", serve, &berthv1.NetworkSpec{PublishAll: true, ExposedPorts: []string{"80/tcp", "9/udp"}})
	if len(c.GetPorts()) != 2 {
		t.Fatalf("the ports are %v", c.GetPorts())
	}
	for _, port := range c.GetPorts() {
		if port.GetContainerPort() == 80 {
			if got := get(t, published(port)); got != "all" {
				t.Errorf("the port answers %q", got)
			}
		}
	}
}

func TestTakenPortIsRefusedAndFreedAgain(t *testing.T) {
	h := newHost(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	port := uint32(listener.Addr().(*net.TCPAddr).Port)

	h.create("late", serve, &berthv1.ContainerSpec{Network: publish("", port)})
	wantCode(t, h.start("late"), codes.FailedPrecondition, "late", "taken")
	if entries, err := os.ReadDir(filepath.Join(h.State, "netns")); err == nil && len(entries) > 0 {
		t.Errorf("network namespaces are left: %v", entries)
	}
	_ = listener.Close()
	if err := h.start("late"); err != nil {
		t.Fatal(err)
	}
	get(t, published(h.inspect("late").GetPorts()[0]))

	// Now it is taken for the host, and for other containers.
	if other, err := net.Listen("tcp", listener.Addr().String()); err == nil {
		_ = other.Close()
		t.Error("a process of the host can listen on a published port")
	}
	h.create("second", serve, &berthv1.ContainerSpec{Network: publish("127.0.0.1", port)})
	wantCode(t, h.start("second"), codes.FailedPrecondition, "taken")
	h.remove("late")
	if err := h.start("second"); err != nil {
		t.Fatal(err)
	}
	if got := get(t, published(h.inspect("second").GetPorts()[0])); got != "second" {
		t.Errorf("the port answers %q", got)
	}
}

func TestContainersReachEachOther(t *testing.T) {
	h := newHost(t)
	one, two := h.run("one", serve, nil), h.run("two", serve, nil)
	if one.GetEndpoints()[0].GetConfig().GetNetwork() != "bridge" || address(one) == address(two) {
		t.Errorf("the endpoints are %v and %v", one.GetEndpoints(), two.GetEndpoints())
	}
	get(t, address(one)+":80")
	get(t, address(two)+":80")
	if got := h.mustExec("one", "wget", "-qO-", "http://"+address(two)+"/"); strings.TrimSpace(got) != "two" {
		t.Errorf("two answers one with %q", got)
	}
	if got := h.mustExec("two", "ping", "-c", "1", "-W", "5", one.GetEndpoints()[0].GetGateways()[0]); !strings.Contains(got, " 0% packet loss") {
		t.Errorf("the gateway does not answer: %s", got)
	}
	network, err := h.networks.InspectNetwork(t.Context(), &berthv1.InspectNetworkRequest{Network: "bridge"})
	if err != nil {
		t.Fatal(err)
	}
	endpoints := network.GetNetwork().GetEndpoints()
	if len(endpoints) != 2 || endpoints[one.GetId()].GetAddresses()[0] != one.GetEndpoints()[0].GetAddresses()[0] {
		t.Errorf("the network knows %v", endpoints)
	}
}

func TestModesHostAndNone(t *testing.T) {
	h := newHost(t)
	hostns, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	shared := h.output("shared", "readlink /proc/self/ns/net", &berthv1.ContainerSpec{Network: &berthv1.NetworkSpec{Mode: "host"}})
	if strings.TrimSpace(shared) != hostns {
		t.Errorf("with the mode host the namespace is %s, the host's is %s", shared, hostns)
	}
	links := h.output("alone", "ls /sys/class/net && ip -o -4 addr", &berthv1.ContainerSpec{Network: &berthv1.NetworkSpec{Mode: "none"}})
	if !strings.HasPrefix(links, "lo\n") || strings.Contains(links, "eth") || !strings.Contains(links, "127.0.0.1/8") {
		t.Errorf("with the mode none there is %q", links)
	}
	_, err = h.containers.CreateContainer(t.Context(), &berthv1.CreateContainerRequest{
		Spec: &berthv1.ContainerSpec{Image: h.image, Network: &berthv1.NetworkSpec{Mode: "magic"}},
	})
	wantCode(t, err, codes.InvalidArgument, "magic")
	_, err = h.containers.CreateContainer(t.Context(), &berthv1.CreateContainerRequest{
		Spec: &berthv1.ContainerSpec{Image: h.image, Network: &berthv1.NetworkSpec{Endpoints: []*berthv1.Endpoint{{Network: "nowhere"}}}},
	})
	wantCode(t, err, codes.NotFound, "nowhere")
}

func TestContainerJoinsAnother(t *testing.T) {
	h := newHost(t)
	one := h.run("one", serve, nil)
	get(t, address(one)+":80")
	got := h.output("guest", "wget -qO- http://127.0.0.1/", &berthv1.ContainerSpec{Network: &berthv1.NetworkSpec{Mode: "container:one"}})
	if strings.TrimSpace(got) != "one" {
		t.Errorf("in its namespace one answers %q", got)
	}
}

func TestNetworksOfOnesOwn(t *testing.T) {
	h := newHost(t)
	create := func(config *berthv1.NetworkConfig) (string, error) {
		response, err := h.networks.CreateNetwork(t.Context(), &berthv1.CreateNetworkRequest{Config: config})
		return response.GetId(), err
	}
	id, err := create(&berthv1.NetworkConfig{Name: "back"})
	wantCode(t, err, codes.OK)
	_, err = create(&berthv1.NetworkConfig{Name: "back"})
	wantCode(t, err, codes.AlreadyExists, "back")
	_, err = create(&berthv1.NetworkConfig{Name: "Bad name"})
	wantCode(t, err, codes.InvalidArgument, "Bad name")
	_, err = create(&berthv1.NetworkConfig{Name: "overlap", Subnets: []*berthv1.Subnet{{Cidr: "127.0.0.0/8"}}})
	wantCode(t, err, codes.AlreadyExists, "127.0.0.0/8")

	both := []*berthv1.Endpoint{{Network: "bridge"}, {Network: "back"}}
	router := h.run("router", serve, &berthv1.NetworkSpec{Endpoints: both})
	inner := h.run("inner", serve, &berthv1.NetworkSpec{Endpoints: []*berthv1.Endpoint{{Network: id[:12]}}})
	h.run("outer", serve, nil)
	if len(router.GetEndpoints()) != 2 || router.GetEndpoints()[1].GetInterface() != "eth1" {
		t.Fatalf("the endpoints are %v", router.GetEndpoints())
	}
	get(t, address(inner)+":80")
	if got := h.mustExec("router", "wget", "-qO-", "http://"+address(inner)+"/"); strings.TrimSpace(got) != "inner" {
		t.Errorf("in a network of both, inner answers %q", got)
	}
	if got, err := h.exec("outer", "timeout", "1", "wget", "-qO-", "http://"+address(inner)+"/"); err == nil {
		t.Errorf("from another network inner answers %q", got)
	}

	remove := func(name string) error {
		_, err := h.networks.RemoveNetwork(t.Context(), &berthv1.RemoveNetworkRequest{Network: name})
		return err
	}
	wantCode(t, remove("back"), codes.FailedPrecondition, "connected")
	wantCode(t, remove("bridge"), codes.FailedPrecondition, "predefined")
	wantCode(t, remove("nowhere"), codes.NotFound, "nowhere")
	h.remove("router")
	h.remove("inner")
	wantCode(t, remove("back"), codes.OK)
	if _, err := os.Stat("/sys/class/net/br-" + id[:12]); err == nil {
		t.Error("the bridge of a removed network is left")
	}
}

// Connections and published ports survive berthd; what died with it is cleaned up when it comes back.
func TestNetworksSurviveTheDaemon(t *testing.T) {
	h := newHost(t)
	kept := h.run("kept", serve, publish("127.0.0.1", 0))
	doomed := h.run("doomed", serve, publish("127.0.0.1", 0))
	port := published(kept.GetPorts()[0])
	get(t, port)
	h.Kill()
	if got := get(t, port); got != "kept" {
		t.Errorf("without berthd the port answers %q", got)
	}
	h.Start()
	testenv.Until(t, limit, "berthd answers", func() error {
		_, err := h.containers.InspectContainer(t.Context(), &berthv1.InspectContainerRequest{Container: "kept"})
		return err
	})
	if got := get(t, port); got != "kept" {
		t.Errorf("with another berthd the port answers %q", got)
	}
	if listener, err := net.Listen("tcp", port); err == nil {
		_ = listener.Close()
		t.Error("a process of the host can listen on a published port after the restart")
	}
	h.remove("doomed")
	listener, err := net.Listen("tcp", published(doomed.GetPorts()[0]))
	if err != nil {
		t.Fatalf("the port of a removed container is still taken: %v", err)
	}
	_ = listener.Close()
	again := h.run("again", serve, nil)
	if address(again) == address(kept) {
		t.Errorf("two containers have the address %s", address(again))
	}
}

// Nothing that a container had may be left on the host, however it ended.
func TestNothingIsLeftOfAContainer(t *testing.T) {
	h := newHost(t)
	h.output("short", "true", &berthv1.ContainerSpec{Network: publish("127.0.0.1", 0)})
	h.wantNobodyConnected()
}

// berthd is killed at many instants of a start. The next one cleans up, and the container can be started or removed.
func TestKillWhileConnecting(t *testing.T) {
	h := newHost(t)
	for i := range 8 {
		name := fmt.Sprintf("c%d", i)
		h.create(name, serve, &berthv1.ContainerSpec{Network: publish("127.0.0.1", 0)})
		kill := time.After(time.Duration(i) * 8 * time.Millisecond)
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			_ = h.start(name) // whatever comes of it
		}()
		<-kill
		h.Kill()
		<-answered
		h.Start()
		testenv.Until(t, limit, "the container can be started", func() error { return h.start(name) })
		get(t, published(h.inspect(name).GetPorts()[0]))
		h.remove(name)
		h.wantNobodyConnected()
	}
}

// wantNobodyConnected fails if the bridge has a port, or an address is leased.
func (h *host) wantNobodyConnected() {
	h.t.Helper()
	links, err := filepath.Glob("/sys/class/net/" + h.Bridge + "/brif/*")
	if err != nil || len(links) > 0 {
		h.t.Errorf("interfaces are left: %v, %v", links, err)
	}
	stores, err := filepath.Glob(filepath.Join(h.State, "networks/addresses/*/last_reserved_ip.*"))
	if err != nil || len(stores) == 0 {
		h.t.Errorf("addresses are leased elsewhere than the test looks: %v, %v", stores, err)
	}
	leases, err := filepath.Glob(filepath.Join(h.State, "networks/addresses/*/10.*"))
	if err != nil || len(leases) > 0 {
		h.t.Errorf("addresses are leased: %v, %v", leases, err)
	}
	attachments, err := filepath.Glob(filepath.Join(h.State, "networks/attachments/*"))
	if err != nil || len(attachments) > 0 {
		h.t.Errorf("attachments are left: %v, %v", attachments, err)
	}
}

func TestEndpointsAsTheyWereAskedFor(t *testing.T) {
	h := newHost(t)
	_, err := h.networks.CreateNetwork(t.Context(), &berthv1.CreateNetworkRequest{Config: &berthv1.NetworkConfig{
		Name: "plan", Internal: true, Labels: map[string]string{"purpose": "test"},
		Subnets: []*berthv1.Subnet{{Cidr: "10.251.7.0/24", Range: "10.251.7.128/30", Gateway: "10.251.7.254"}},
	}})
	wantCode(t, err, codes.OK)
	labelled, err := h.networks.ListNetworks(t.Context(), &berthv1.ListNetworksRequest{
		Filters: []*berthv1.Filter{{Key: "label", Values: []string{"purpose=test"}}},
	})
	if err != nil || len(labelled.GetNetworks()) != 1 || labelled.GetNetworks()[0].GetConfig().GetName() != "plan" {
		t.Errorf("with the label are %v, %v", labelled, err)
	}
	endpoint := func(address string) *berthv1.NetworkSpec {
		return &berthv1.NetworkSpec{Endpoints: []*berthv1.Endpoint{{Network: "plan", Ipv4Address: address}}}
	}
	chosen := endpoint("10.251.7.77")
	chosen.Endpoints[0].MacAddress = "02:11:22:33:44:55"
	fixed := h.run("fixed", serve, chosen)
	if got := fixed.GetEndpoints()[0]; address(fixed) != "10.251.7.77" || got.GetMacAddress() != "02:11:22:33:44:55" || got.GetGateways()[0] != "10.251.7.254" {
		t.Errorf("the endpoint is %v", got)
	}
	free := h.run("free", serve, endpoint(""))
	if !strings.HasPrefix(address(free), "10.251.7.1") {
		t.Errorf("the address is %s, none of the range", address(free))
	}
	get(t, address(fixed)+":80")
	if got := h.mustExec("free", "wget", "-qO-", "http://10.251.7.77/"); strings.TrimSpace(got) != "fixed" {
		t.Errorf("in the network fixed answers %q", got)
	}
	h.create("same", serve, &berthv1.ContainerSpec{Network: endpoint("10.251.7.77")})
	if err := h.start("same"); err == nil || !strings.Contains(err.Error(), "10.251.7.77") {
		t.Errorf("an address that is taken: %v", err)
	}
	_, err = h.containers.CreateContainer(t.Context(), &berthv1.CreateContainerRequest{Spec: &berthv1.ContainerSpec{Image: h.image, Network: endpoint("10.9.9.9")}})
	wantCode(t, err, codes.InvalidArgument, "10.9.9.9")

	outer := h.run("outer", serve, nil)
	get(t, address(outer)+":80")
	if got, err := h.exec("free", "timeout", "1", "wget", "-qO-", "http://"+address(outer)+"/"); err == nil {
		t.Errorf("out of an internal network, outer answers %q", got)
	}
	if routes := h.mustExec("free", "ip", "route"); strings.Contains(routes, "default") {
		t.Errorf("an internal network has the routes %q", routes)
	}
	for _, name := range []string{"fixed", "free", "same"} {
		h.remove(name)
	}
	_, err = h.networks.RemoveNetwork(t.Context(), &berthv1.RemoveNetworkRequest{Network: "plan"})
	wantCode(t, err, codes.OK)
}
