package cni_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthd/berth/test/testenv"
)

// host is a namespace in the part of the host, with the plugins and their state.
type host struct {
	*namespace
	dir     string // state of host-local, cache of libcni
	plugins string // CNI_PATH
	cni     *libcni.CNIConfig
}

// newHost makes a host with berth's plugins.
func newHost(t testing.TB) *host {
	t.Helper()
	dir := testenv.ShortDir(t)
	plugins := filepath.Join(dir, "plugins")
	h := &host{namespace: newNamespace(t), dir: dir}
	h.run(testenv.Binary(t, "berth-cni"), "install", plugins)
	h.use(plugins)
	return h
}

// use chooses the plugins for what follows.
func (h *host) use(plugins string) {
	h.plugins = plugins
	h.cni = libcni.NewCNIConfigWithCacheDir(filepath.SplitList(plugins), filepath.Join(h.dir, "cache"), nil)
}

// object is a piece of JSON.
type object = map[string]any

// bridgeConf is the plugin bridge as the manager uses it. Edits change it.
func (h *host) bridgeConf(subnets ...string) object {
	var ranges []any
	for _, subnet := range subnets {
		ranges = append(ranges, []any{object{"subnet": subnet}})
	}
	return object{
		"type": "bridge", "bridge": "berth0", "isGateway": true, "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
		"ipam": object{"type": "host-local", "dataDir": filepath.Join(h.dir, "leases"), "ranges": ranges},
	}
}

func portmapConf() object {
	return object{"type": "portmap", "snat": true, "capabilities": object{"portMappings": true}}
}

func firewallConf() object { return object{"type": "firewall", "ingressPolicy": "same-bridge"} }

// list makes a network of plugins.
func list(t testing.TB, name string, plugins ...object) *libcni.NetworkConfigList {
	t.Helper()
	return versionedList(t, "1.1.0", name, plugins...)
}

func versionedList(t testing.TB, version, name string, plugins ...object) *libcni.NetworkConfigList {
	t.Helper()
	text, err := json.Marshal(object{"cniVersion": version, "name": name, "plugins": plugins})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := libcni.ConfListFromBytes(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// network is the whole chain.
func (h *host) network(name string, subnets ...string) *libcni.NetworkConfigList {
	h.t.Helper()
	return list(h.t, name, h.bridgeConf(subnets...), portmapConf(), firewallConf())
}

// container is a namespace with an attachment.
type container struct {
	*namespace
	id      string
	ifName  string
	ports   []object
	caps    object
	args    [][2]string
	netPath string // in place of that of the namespace
}

func newContainer(t testing.TB, id string, ports ...object) *container {
	t.Helper()
	return &container{namespace: newNamespace(t), id: id, ifName: "eth0", ports: ports}
}

func port(hostIP string, hostPort, containerPort int) object {
	return object{"hostIP": hostIP, "hostPort": hostPort, "containerPort": containerPort, "protocol": "tcp"}
}

func (c *container) runtimeConf() *libcni.RuntimeConf {
	caps := object{}
	if c.ports != nil {
		caps["portMappings"] = c.ports
	}
	for key, value := range c.caps {
		caps[key] = value
	}
	path := c.path
	if c.netPath != "" {
		path = c.netPath
	}
	return &libcni.RuntimeConf{ContainerID: c.id, NetNS: path, IfName: c.ifName, CapabilityArgs: caps, Args: c.args}
}

func (h *host) tryAttach(n *libcni.NetworkConfigList, c *container) (result *types100.Result, err error) {
	h.do(func() {
		var raw types.Result
		if raw, err = h.cni.AddNetworkList(context.Background(), n, c.runtimeConf()); err == nil {
			result, err = types100.NewResultFromResult(raw)
		}
	})
	return result, err
}

func (h *host) attach(n *libcni.NetworkConfigList, c *container) *types100.Result {
	h.t.Helper()
	result, err := h.tryAttach(n, c)
	if err != nil {
		h.t.Fatalf("ADD of %s: %v", c.id, err)
	}
	return result
}

func (h *host) detach(n *libcni.NetworkConfigList, c *container) {
	h.t.Helper()
	var err error
	h.do(func() { err = h.cni.DelNetworkList(context.Background(), n, c.runtimeConf()) })
	if err != nil {
		h.t.Errorf("DEL of %s: %v", c.id, err)
	}
}

func (h *host) check(n *libcni.NetworkConfigList, c *container) (err error) {
	h.do(func() { err = h.cni.CheckNetworkList(context.Background(), n, c.runtimeConf()) })
	return err
}

// leases lists the addresses that host-local has reserved for a network.
func (h *host) leases(network string) []string {
	h.t.Helper()
	var found []string
	entries, err := os.ReadDir(filepath.Join(h.dir, "leases", network))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	for _, entry := range entries {
		if net.ParseIP(entry.Name()) != nil {
			found = append(found, entry.Name())
		}
	}
	return found
}

// wantNothing fails unless the host is as before the first attachment: the bridge and empty sets may stay.
func (h *host) wantNothing(network string) {
	h.t.Helper()
	for _, name := range h.links() {
		if strings.HasPrefix(name, "veth") {
			h.t.Errorf("link %s is left", name)
		}
	}
	if found := h.entries("berth"); len(found) > 0 {
		h.t.Errorf("nftables entries are left: %q", found)
	}
	if found := h.leases(network); len(found) > 0 {
		h.t.Errorf("addresses are left: %v", found)
	}
}

// serve answers HTTP in the namespace with the name, and the address that a request came from.
func (n *namespace) serve(address, name string) {
	n.t.Helper()
	var listener net.Listener
	var err error
	n.do(func() { listener, err = net.Listen("tcp", address) })
	if err != nil {
		n.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s %s", name, from)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	n.t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

// get fetches from an address, from within the namespace. It returns who answered, and where the request seemed to come from.
func (n *namespace) get(address string) (name, from string, err error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
			n.do(func() { conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address) })
			return conn, err
		},
	}}
	response, err := client.Get("http://" + address + "/")
	if err != nil {
		return "", "", err
	}
	defer func() { _ = response.Body.Close() }()
	_, err = fmt.Fscan(response.Body, &name, &from)
	return name, from, err
}

// wantAnswer fails unless name answers at the address. It returns where the request seemed to come from.
func (n *namespace) wantAnswer(address, name string) string {
	n.t.Helper()
	answered, from, err := n.get(address)
	if err != nil || answered != name {
		n.t.Errorf("at %s answers %q (%v), want %q", address, answered, err, name)
	}
	return from
}

// wantSilence fails if anybody answers at the address.
func (n *namespace) wantSilence(address string) {
	n.t.Helper()
	var err error
	n.do(func() {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", address, 300*time.Millisecond); err == nil {
			_ = conn.Close()
		}
	})
	if err == nil {
		n.t.Errorf("somebody answers at %s", address)
	}
}
