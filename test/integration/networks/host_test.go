package networks_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// must runs a command on the host.
func must(t testing.TB, name string, args ...string) string {
	t.Helper()
	output, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, output)
	}
	return string(output)
}

// unique is a name of an interface or a table that only this test has.
func unique(t testing.TB, prefix string) string {
	t.Helper()
	return prefix + filepath.Ext(testenv.ShortDir(t))[1:]
}

// Rules and bridges that others delete come back, with berthd running and at its next start. The container notices nothing.
func TestDeletedRulesAndBridgesComeBack(t *testing.T) {
	h := newHost(t)
	port := h.run("web", serve, publish("", 0)).GetPorts()[0]
	get(t, published(port))
	before := h.mustExec("web", "ip", "-4", "-o", "addr", "show", "eth0")
	damages := []struct {
		name string
		do   func()
	}{
		{"table", func() { must(t, "nft", "delete", "table", "inet", h.Table) }},
		{"rules", func() { must(t, "nft", "flush", "table", "inet", h.Table) }},
		{"entries", func() { must(t, "nft", "flush", "map", "inet", h.Table, "anyport4") }},
		{"bridge", func() { must(t, "ip", "link", "delete", h.Bridge) }},
		{"bridge and table", func() {
			must(t, "ip", "link", "delete", h.Bridge)
			must(t, "nft", "delete", "table", "inet", h.Table)
		}},
	}
	for _, damage := range damages {
		damage.do()
		if got := get(t, published(port)); got != "web" {
			t.Errorf("after the loss of the %s the port answers %q", damage.name, got)
		}
		h.Kill()
		damage.do()
		h.Start()
		if got := get(t, published(port)); got != "web" {
			t.Errorf("after the loss of the %s while berthd was away the port answers %q", damage.name, got)
		}
	}
	if after := h.mustExec("web", "ip", "-4", "-o", "addr", "show", "eth0"); after != before {
		t.Errorf("the container's interface was\n%s and is\n%s", before, after)
	}
	h.run("second", serve, nil)
	if got := h.mustExec("second", "wget", "-qO-", "http://"+address(h.inspect("web"))+"/"); strings.TrimSpace(got) != "web" {
		t.Errorf("a neighbour gets %q", got)
	}
}

// Rules that the administrator wrote into the chain for that outlive containers and berthd.
func TestRulesOfTheAdministratorAreKept(t *testing.T) {
	h := newHost(t)
	h.run("first", serve, nil)
	must(t, "nft", "add", "rule", "inet", h.Table, "admin", "ip", "saddr", "203.0.113.7", "drop")
	has := func(when string) {
		t.Helper()
		if chain := must(t, "nft", "list", "chain", "inet", h.Table, "admin"); !strings.Contains(chain, "203.0.113.7") {
			t.Errorf("%s the rule is gone: %s", when, chain)
		}
	}
	h.remove("first")
	h.Stop()
	has("after berthd's end")
	h.Start()
	has("after its start")
	h.run("second", serve, nil)
	has("with a new container")
	h.remove("second")
	must(t, "nft", "flush", "chain", "inet", h.Table, "admin") // and then the table goes with berthd
}

// A bridge of the administrator's is used, with its address, and stays.
func TestForeignBridgeIsUsedAndKept(t *testing.T) {
	testenv.NeedRoot(t)
	bridge := unique(t, "own")
	must(t, "ip", "link", "add", bridge, "type", "bridge")
	t.Cleanup(func() { must(t, "ip", "link", "delete", bridge) })
	must(t, "ip", "address", "add", "10.206.77.9/24", "dev", bridge)
	h := newHost(t, "--bridge-name", bridge, "--bridge-subnet", "10.206.77.0/24")
	c := h.run("web", serve, publish("127.0.0.1", 0))
	if gateway := c.GetEndpoints()[0].GetGateways()[0]; gateway != "10.206.77.9" || !strings.HasPrefix(address(c), "10.206.77.") {
		t.Errorf("the endpoint is %v", c.GetEndpoints())
	}
	if got := get(t, published(c.GetPorts()[0])); got != "web" {
		t.Errorf("the port answers %q", got)
	}
	h.remove("web")
	h.Stop()
	if shown := must(t, "ip", "-4", "-o", "address", "show", "dev", bridge); !strings.Contains(shown, "10.206.77.9/24") {
		t.Errorf("the bridge is\n%s", shown)
	}
}

// What can't be the default network is refused when berthd starts, and left as it is.
func TestForeignLinksAndTablesAreRefused(t *testing.T) {
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	link, table, other := unique(t, "dum"), unique(t, "foreign-"), unique(t, "brd")
	must(t, "ip", "link", "add", link, "type", "veth", "peer", "name", link+"p")
	t.Cleanup(func() { must(t, "ip", "link", "delete", link) })
	must(t, "ip", "address", "add", "10.206.78.1/24", "dev", link)
	must(t, "ip", "link", "set", link, "up")
	must(t, "ip", "link", "set", link+"p", "up")
	must(t, "ip", "link", "add", other, "type", "bridge")
	t.Cleanup(func() { must(t, "ip", "link", "delete", other) })
	must(t, "ip", "link", "set", other, "alias", "made by berthd 0123456789abcdef")
	must(t, "nft", "add table inet "+table+"; add chain inet "+table+" mine")
	t.Cleanup(func() { must(t, "nft", "delete", "table", "inet", table) })
	for _, c := range []struct {
		flags []string
		want  []string
	}{
		{[]string{"--bridge-name", link}, []string{link, "veth", "not a bridge"}},
		{[]string{"--bridge-name", other}, []string{other, "0123456789abcdef"}},
		{[]string{"--bridge-name", "averyveryverylongname"}, []string{"averyveryverylongname", "15"}},
		{[]string{"--bridge-name", "a/b"}, []string{"a/b"}},
		{[]string{"--bridge-subnet", "10.206.0.0/16"}, []string{"10.206.0.0/16", "10.206.78.0/24"}},
		{[]string{"--bridge-subnet", "10.205.0.4/31"}, []string{"10.205.0.4/31", "no room"}},
		{[]string{"--nft-table", table}, []string{table, "not made by berth"}},
		{[]string{"--nft-table", "a b"}, []string{"a b"}},
	} {
		flags := append([]string{
			"--root", dir + "/root", "--state", dir + "/state", "--address", "unix://" + dir + "/sock", "--bridge-name", unique(t, "bn"),
			"--nft-table", unique(t, "berth-test-"),
		}, c.flags...)
		said := testenv.DaemonFails(t, flags...)
		for _, word := range c.want {
			if !strings.Contains(said, word) {
				t.Errorf("%q: it does not say %q: %s", c.flags, word, said)
			}
		}
	}
	must(t, "ip", "link", "show", link)
	must(t, "nft", "list", "chain", "inet", table, "mine")
}

// A second daemon with the first's bridge is refused. One with the first's table takes nothing of it away.
func TestSecondDaemonDoesNoHarm(t *testing.T) {
	h := newHost(t)
	port := h.run("web", serve, publish("127.0.0.1", 0)).GetPorts()[0]
	dir := testenv.ShortDir(t)
	flags := []string{"--root", dir + "/root", "--state", dir + "/state", "--address", "unix://" + dir + "/sock", "--nft-table", h.Table}
	said := testenv.DaemonFails(t, append(flags, "--bridge-name", h.Bridge)...)
	if !strings.Contains(said, h.Bridge) || !strings.Contains(said, "made by berthd") {
		t.Errorf("it does not say whose the bridge is: %s", said)
	}
	second := newHost(t, "--nft-table", h.Table)
	other := second.run("other", serve, publish("127.0.0.1", 0)).GetPorts()[0]
	for at, name := range map[string]string{published(port): "web", published(other): "other"} {
		if got := get(t, at); got != name {
			t.Errorf("with two daemons the port answers %q, want %q", got, name)
		}
	}
	second.remove("other")
	second.Stop()
	if got := get(t, published(port)); got != "web" {
		t.Errorf("after the second daemon's end the port answers %q", got)
	}
}

// Two daemons that keep their rules in one table both put back what others delete, and leave alone what the other has put back.
func TestDaemonsWithOneTableComeToRest(t *testing.T) {
	h := newHost(t)
	port := h.run("web", serve, publish("127.0.0.1", 0)).GetPorts()[0]
	second := newHost(t, "--nft-table", h.Table)
	other := second.run("other", serve, publish("127.0.0.1", 0)).GetPorts()[0]
	must(t, "nft", "flush", "chain", "inet", h.Table, "ports")
	for at, name := range map[string]string{published(port): "web", published(other): "other"} {
		if got := get(t, at); got != name {
			t.Errorf("with two daemons the port answers %q, want %q", got, name)
		}
	}
	// Each rule that is written anew gets another handle.
	const calm = 2 * time.Second
	var before string
	var changed time.Time
	testenv.Until(t, limit, "nobody writes the rules again", func() error {
		if now := must(t, "nft", "--handle", "list", "table", "inet", h.Table); now != before {
			before, changed = now, time.Now()
		}
		if quiet := time.Since(changed); quiet < calm {
			return fmt.Errorf("they have been the same for %v only", quiet)
		}
		return nil
	})
}

// An attachment that could not be undone belongs to a namespace that is gone. The next start must not take it for its own.
func TestLeftOverAttachmentIsNotTakenForTheNext(t *testing.T) {
	h := newHost(t)
	h.run("web", serve, publish("127.0.0.1", 0))
	locks, err := filepath.Glob(filepath.Join(h.State, "networks/addresses/*/lock"))
	if err != nil || len(locks) != 1 {
		t.Fatalf("the locks are %v, %v", locks, err)
	}
	// The plugin can't release the address.
	if err := os.Rename(locks[0], locks[0]+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(locks[0], 0o700); err != nil {
		t.Fatal(err)
	}
	_, _ = h.containers.StopContainer(t.Context(), &berthv1.StopContainerRequest{Container: "web"})
	testenv.Until(t, limit, "the container has ended", func() error {
		if state := h.inspect("web").GetState().GetStatus(); state == berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING {
			return fmt.Errorf("it is %v", state)
		}
		return nil
	})
	if left, err := filepath.Glob(filepath.Join(h.State, "networks/attachments/*.json")); err != nil || len(left) != 1 {
		t.Fatalf("the test needs an attachment to be left, and there are %v, %v", left, err)
	}
	if err := os.Remove(locks[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(locks[0]+".away", locks[0]); err != nil {
		t.Fatal(err)
	}
	if err := h.start("web"); err != nil {
		t.Fatal(err)
	}
	if got := get(t, published(h.inspect("web").GetPorts()[0])); got != "web" {
		t.Errorf("the port answers %q", got)
	}
	if shown := h.mustExec("web", "ip", "-4", "-o", "addr", "show", "eth0"); !strings.Contains(shown, address(h.inspect("web"))) {
		t.Errorf("the container has %q", shown)
	}
}

// Free ports are chosen for many containers at once, each another.
func TestRandomPortsAtOnce(t *testing.T) {
	h := newHost(t)
	const many = 6
	for i := range many {
		h.create(fmt.Sprint("c", i), "exec sleep 1000", &berthv1.ContainerSpec{Network: publish("127.0.0.1", 0)})
	}
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			if err := h.start(fmt.Sprint("c", i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	seen := map[uint32]bool{}
	for i := range many {
		port := h.inspect(fmt.Sprint("c", i)).GetPorts()[0].GetHostPort()
		if seen[port] {
			t.Errorf("port %d was given twice", port)
		}
		seen[port] = true
	}
}

func TestDriverOptionsTakeEffect(t *testing.T) {
	h := newHost(t)
	bridge := unique(t, "opt")
	create := func(name string, options map[string]string) error {
		_, err := h.networks.CreateNetwork(t.Context(), &berthv1.CreateNetworkRequest{Config: &berthv1.NetworkConfig{Name: name, Options: options}})
		return err
	}
	const prefix = "com.docker.network.bridge."
	wantCode(t, create("apart", map[string]string{
		prefix + "name": bridge, prefix + "enable_icc": "false", "com.docker.network.driver.mtu": "1400", prefix + "host_binding_ipv4": "127.0.0.1",
	}), codes.OK)
	wantCode(t, create("bad", map[string]string{prefix + "enable_icc": "perhaps"}), codes.InvalidArgument, "enable_icc", "perhaps")
	wantCode(t, create("bad", map[string]string{prefix + "name": "averyveryverylongname"}), codes.InvalidArgument, "averyveryverylongname")
	wantCode(t, create("bad", map[string]string{prefix + "inhibit_ipv4": "true"}), codes.Unimplemented, "inhibit_ipv4")
	wantCode(t, create("bad", map[string]string{prefix + "gateway_mode_ipv4": "routed"}), codes.InvalidArgument, "routed")
	wantCode(t, create("bad", map[string]string{prefix + "name": bridge}), codes.AlreadyExists, bridge, "apart")
	in := func(endpoint *berthv1.Endpoint) *berthv1.NetworkSpec {
		endpoint.Network = "apart"
		return &berthv1.NetworkSpec{Endpoints: []*berthv1.Endpoint{endpoint}, Ports: []*berthv1.PortMapping{{ContainerPort: 80}}}
	}
	one, two := h.run("one", serve, in(&berthv1.Endpoint{})), h.run("two", serve, in(&berthv1.Endpoint{}))
	if got := one.GetPorts()[0].GetHostIp(); got != "127.0.0.1" {
		t.Errorf("the port is published on %q", got)
	}
	get(t, published(one.GetPorts()[0]))
	get(t, published(two.GetPorts()[0]))
	if got, err := h.exec("one", "timeout", "1", "wget", "-qO-", "http://"+address(two)+"/"); err == nil {
		t.Errorf("containers that must not talk do: %q", got)
	}
	if got := h.mustExec("one", "cat", "/sys/class/net/eth0/mtu"); strings.TrimSpace(got) != "1400" {
		t.Errorf("the mtu is %q", got)
	}
	must(t, "ip", "link", "show", bridge)
	for _, endpoint := range []*berthv1.Endpoint{{Aliases: []string{"www"}}, {DriverOptions: map[string]string{"com.docker.network.endpoint.ifname": "x"}}} {
		_, err := h.containers.CreateContainer(t.Context(), &berthv1.CreateContainerRequest{Spec: &berthv1.ContainerSpec{Image: h.image, Network: in(endpoint)}})
		wantCode(t, err, codes.Unimplemented, "apart")
	}
	h.remove("one")
	h.remove("two")
	_, err := h.networks.RemoveNetwork(t.Context(), &berthv1.RemoveNetworkRequest{Network: "apart"})
	wantCode(t, err, codes.OK)
	if _, err := os.Stat("/sys/class/net/" + bridge); err == nil {
		t.Errorf("bridge %s is left", bridge)
	}
}

// Events tell what happens to networks and volumes.
func TestNetworkAndVolumeEvents(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience(limit))
	defer cancel()
	stream, err := berthv1.NewEventsServiceClient(h.Dial()).SubscribeEvents(ctx, &berthv1.SubscribeEventsRequest{
		Filters: []*berthv1.Filter{{Key: "type", Values: []string{"network", "volume"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	made, err := h.networks.CreateNetwork(t.Context(), &berthv1.CreateNetworkRequest{Config: &berthv1.NetworkConfig{Name: "events"}})
	if err != nil {
		t.Fatal(err)
	}
	spec := volume("shelf", "/data")
	spec.Network = &berthv1.NetworkSpec{Endpoints: []*berthv1.Endpoint{{Network: "events"}}}
	id := h.create("box", "exec sleep 1000", spec)
	if err := h.start("box"); err != nil {
		t.Fatal(err)
	}
	h.remove("box")
	if _, err := h.networks.RemoveNetwork(t.Context(), &berthv1.RemoveNetworkRequest{Network: "events"}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.volumes.RemoveVolume(t.Context(), &berthv1.RemoveVolumeRequest{Name: "shelf"}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"network create " + made.GetId() + " events ", "volume create shelf  ", "network connect " + made.GetId() + " events " + id,
		"volume mount shelf  " + id, "network disconnect " + made.GetId() + " events " + id, "volume unmount shelf  " + id, "network destroy " + made.GetId() + " events ", "volume destroy shelf  ",
	}
	for _, one := range want {
		message, err := stream.Recv()
		if err != nil {
			t.Fatalf("instead of %q came %v", one, err)
		}
		e := message.GetEvent()
		got := strings.Join([]string{e.GetType(), e.GetAction(), e.GetId(), e.GetAttributes()["name"], e.GetAttributes()["container"]}, " ")
		if got != one {
			t.Errorf("the event is %q, want %q", got, one)
		}
	}
}

// An attachment that can't be read keeps neither its container from being reached nor anything of it behind.
func TestUnreadableAttachment(t *testing.T) {
	h := newHost(t)
	h.run("web", serve, publish("127.0.0.1", 0))
	port := published(h.inspect("web").GetPorts()[0])
	h.Kill()
	files, err := filepath.Glob(filepath.Join(h.State, "networks/attachments/*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the attachments are %v, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte(`{"netns":`), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Start()
	if got := get(t, port); got != "web" {
		t.Errorf("the port answers %q", got)
	}
	h.remove("web")
	for _, pattern := range []string{"networks/attachments/*", "networks/addresses/*/10.*"} {
		if left, err := filepath.Glob(filepath.Join(h.State, pattern)); err != nil || len(left) > 0 {
			t.Errorf("left are %v, %v", left, err)
		}
	}
}
