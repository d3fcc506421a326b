package inprocess_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/cni-plugins/inprocess"
	"github.com/berthd/berth/internal/errdefs"
)

// newNamespace returns the path of a network namespace that goes away with the test.
func newNamespace(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	type opened struct {
		fd  int
		err error
	}
	result := make(chan opened)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		fd := -1
		if err == nil {
			fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		result <- opened{fd, err}
	}()
	got := <-result
	if got.err != nil {
		t.Fatal(got.err)
	}
	t.Cleanup(func() { _ = unix.Close(got.fd) })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), got.fd)
}

const (
	networkName = "inprocess-test"
	bridgeName  = "inproctest0"
)

func network(t testing.TB, dir string, extra string) *libcni.NetworkConfigList {
	t.Helper()
	list, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":%q,"plugins":[
		{"type":"bridge","bridge":%q,"isDefaultGateway":true,"ipMasq":true,"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.88.0.0/28"}]]}},
		{"type":"portmap","capabilities":{"portMappings":true}},{"type":"firewall","ingressPolicy":"same-bridge"}%s]}`, networkName, bridgeName, dir, extra))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func conf(id, netns string, hostPort int) *libcni.RuntimeConf {
	ports := []map[string]any{{"hostPort": hostPort, "containerPort": 80, "protocol": "tcp"}}
	return &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: "eth0", CapabilityArgs: map[string]any{"portMappings": ports}}
}

// wantNoLinks fails if this process sees a link of a test, all of which belong into the namespace that plays the host.
func wantNoLinks(t testing.TB) {
	t.Helper()
	list, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range list {
		if strings.HasPrefix(link.Attrs().Alias, networkName) || link.Attrs().Name == bridgeName {
			t.Errorf("the real host has link %s", link.Attrs().Name)
		}
	}
}

func TestPluginsRunInThisProcess(t *testing.T) {
	host := newNamespace(t)
	exec := inprocess.New(inprocess.WithNetns(host))
	defer exec.Close()
	cni := libcni.NewCNIConfigWithCacheDir(nil, t.TempDir(), exec)
	list := network(t, t.TempDir(), "")

	// Ten at once: none must see the namespace of another, nor leave a thread in one.
	var all sync.WaitGroup
	results := make([]*types100.Result, 10)
	for i := range results {
		netns := newNamespace(t)
		all.Go(func() {
			raw, err := cni.AddNetworkList(t.Context(), list, conf(fmt.Sprint("c", i), netns, 8000+i))
			if err == nil {
				results[i], err = types100.NewResultFromResult(raw)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	seen := map[string]bool{}
	for i, result := range results {
		seen[result.IPs[0].Address.String()] = true
		if err := cni.CheckNetworkList(t.Context(), list, conf(fmt.Sprint("c", i), result.Interfaces[2].Sandbox, 8000+i)); err != nil {
			t.Errorf("CHECK: %v", err)
		}
	}
	if len(seen) != len(results) {
		t.Errorf("there are %d addresses for %d containers", len(seen), len(results))
	}
	for i, result := range results {
		if err := cni.DelNetworkList(t.Context(), list, conf(fmt.Sprint("c", i), result.Interfaces[2].Sandbox, 8000+i)); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	wantNoLinks(t)
	for range 2 { // the second time there is nothing to remove
		if err := errors.Join(exec.DeleteBridge(t.Context(), bridgeName), exec.DeleteTable(t.Context(), "berth")); err != nil {
			t.Error(err)
		}
	}
	wantNoLinks(t)
}

func TestErrorsHaveAClass(t *testing.T) {
	exec := inprocess.New(inprocess.WithNetns(newNamespace(t)))
	defer exec.Close()
	cni := libcni.NewCNIConfigWithCacheDir(nil, t.TempDir(), exec)
	list := network(t, t.TempDir(), "")
	add := func(list *libcni.NetworkConfigList, id string, port int) error {
		_, err := cni.AddNetworkList(t.Context(), list, conf(id, newNamespace(t), port))
		return err
	}
	if err := add(list, "holder", 8080); err != nil {
		t.Fatal(err)
	}
	if err := add(list, "late", 8080); !errors.Is(err, errdefs.ErrAlreadyExists) || !strings.Contains(err.Error(), "8080/tcp") {
		t.Errorf("a port that is taken: %v", err)
	}
	if err := add(list, "bad", 0); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("port 0: %v", err)
	}
	var err error
	for i := range 16 {
		if err = add(list, fmt.Sprint("c", i), 9000+i); err != nil {
			break
		}
	}
	if !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("a subnet that is used up: %v", err)
	}
}

// Plugins that are not ours are executed, in the host's namespace too, in the same chain.
func TestOthersAreExecuted(t *testing.T) {
	host, dir := newNamespace(t), t.TempDir()
	script := `#!/bin/sh
[ "$CNI_COMMAND" != VERSION ] || { echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}'; exit; }
echo "$CNI_COMMAND $(ls /sys/class/net 2>/dev/null | wc -l) $(grep -c ` + bridgeName + ` /proc/thread-self/net/dev)" >> ` + dir + `/calls
[ "$CNI_COMMAND" != ADD ] || sed 's/.*"prevResult":\(.*\),"type".*/\1/'
`
	if err := os.WriteFile(filepath.Join(dir, "recorder"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	exec := inprocess.New(inprocess.WithNetns(host))
	defer exec.Close()
	cni := libcni.NewCNIConfigWithCacheDir([]string{dir}, t.TempDir(), exec)
	list := network(t, t.TempDir(), `,{"type":"recorder"}`)
	netns := newNamespace(t)
	if _, err := cni.AddNetworkList(t.Context(), list, conf("c", netns, 8080)); err != nil {
		t.Fatal(err)
	}
	if err := cni.DelNetworkList(t.Context(), list, conf("c", netns, 8080)); err != nil {
		t.Error(err)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(calls)) {
		if !strings.HasSuffix(line, " 1\n") {
			t.Errorf("the plugin did not run where the bridge is: %q", line)
		}
	}
	if !strings.HasPrefix(string(calls), "ADD") || !strings.Contains(string(calls), "DEL") {
		t.Errorf("the plugin was called with %q", calls)
	}
}
