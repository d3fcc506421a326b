package cni_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// podmanStory runs in network and mount namespaces of its own. $1 is the directory with everything in it.
const podmanStory = `
mount -t tmpfs none /run && mkdir -p /run/netns /run/lock && mkdir -p /var/lib/cni && mount -t tmpfs none /var/lib/cni
export CONTAINERS_CONF=$1/containers.conf
p="podman --root $1/root --runroot $1/run --tmpdir $1/tmp"
run="run --cgroup-parent $3"
$p $run -d --name web -p 8080:80 -p 127.0.0.1:8081:80 --rootfs $2 httpd -f -p 80 -h /var/www >/dev/null
fetch() { until timeout 5 busybox wget -qO- http://$1/; do [ $((tries += 1)) -lt 100 ] || return 1; sleep 0.1; done 2>/dev/null; } # the server may be starting
for at in 127.0.0.1:8080 127.0.0.1:8081 10.88.0.1:8080; do fetch $at; done
$p $run --rm --rootfs $2 timeout 5 wget -qO- http://10.88.0.1:8080/
$p $run -d --name late -p 8080:80 --rootfs $2 sleep 10 || echo refused
$p network create two >/dev/null && $p $run --rm --network two --rootfs $2 ip -o -4 address show eth0
$p restart -t 0 web >/dev/null && fetch 127.0.0.1:8080
$p rm -f -t 0 web late >/dev/null
echo left: $(nft list table inet berth | grep comment | grep -v "made by berth") $(ip -o link | grep -o veth)
`

// Podman 4 is a CNI caller that does not know of us: it runs on our plugins as on the reference's.
func TestPodmanRunsOnThePlugins(t *testing.T) {
	t.Parallel()
	needReference(t) // podman's own network also has the plugin tuning
	testenv.Peer(t, "podman")
	h := newHost(t)
	if output := h.run("podman", "--version"); !strings.HasPrefix(output, "podman version 4.") {
		t.Skipf("needs podman 4, the last with CNI, not %s", output)
	}
	rootfs := testenv.BusyboxRootfs(t)
	if err := os.WriteFile(filepath.Join(rootfs, "var/www/index.html"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`[network]
network_backend = "cni"
cni_plugin_dirs = [%q, %q]
network_config_dir = %q
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "berth-runtime"
[engine.runtimes]
berth-runtime = [%q]
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
`, h.plugins, referencePlugins, filepath.Join(h.dir, "net.d"), testenv.Binary(t, "berth-runtime"))
	if err := os.WriteFile(filepath.Join(h.dir, "containers.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	group := fmt.Sprintf("/berth-test-cni-%d", os.Getpid())
	t.Cleanup(func() { // podman leaves them
		if err := testenv.RemoveCgroups(group); err != nil {
			t.Error(err)
		}
	})
	output, err := h.try("unshare", "-m", "sh", "-c", podmanStory, "sh", h.dir, rootfs, group)
	if err != nil {
		t.Errorf("%v", err)
	}
	if greetings := strings.Count(output, "hello\n"); greetings != 5 {
		t.Errorf("%d of 5 requests were answered", greetings)
	}
	for _, want := range []string{"cannot publish port 0.0.0.0:8080/tcp: address already in use", "refused\n", "inet 10.89.", "left:\n"} {
		if !strings.Contains(output, want) {
			t.Errorf("the output has no %q", want)
		}
	}
	if t.Failed() {
		t.Logf("the output is:\n%s", output)
	}
}
