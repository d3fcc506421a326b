package networks_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) } // tests change the namespace of their thread

// newHostApart is newHost in a network namespace of its own, which plays the host: its firewall can be changed. From then on what the test
// executes is in there too, and what it dials itself is not.
func newHostApart(t *testing.T) (h *host, neighbour func(script string) (string, error)) {
	t.Helper()
	h = newHost(t)
	h.Stop()               // the image is pulled, which needs the real host's loopback
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	// The neighbour lives as long as a process in its namespace.
	keeper := exec.Command("unshare", "--net", "cat")
	input, err := keeper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = input.Close(); _ = keeper.Wait() })
	pid := fmt.Sprint(keeper.Process.Pid)
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, limit, "the neighbour has a namespace", func() error {
		if its, err := os.Readlink("/proc/" + pid + "/ns/net"); err != nil || its == own {
			return errors.Join(err, fmt.Errorf("it is in %q", its))
		}
		return nil
	})
	neighbour = func(script string) (string, error) {
		output, err := exec.Command("nsenter", "--target", pid, "--net", "timeout", "5", "bash", "-c", script).CombinedOutput()
		return string(output), err
	}
	must(t, "sysctl", "-qw", "net.ipv4.ip_forward=0")
	must(t, "ip", "link", "set", "lo", "up")
	must(t, "ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "eth0", "netns", pid)
	must(t, "ip", "address", "add", "192.0.2.1/24", "dev", "uplink0")
	must(t, "ip", "link", "set", "uplink0", "up")
	if output, err := neighbour("ip link set lo up && ip address add 192.0.2.2/24 dev eth0 && ip link set eth0 up"); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	return h, neighbour
}

// wantPassage waits until the neighbour gets an answer from the published port, and the container one from the neighbour.
func (h *host) wantPassage(neighbour func(string) (string, error), name string) {
	h.t.Helper()
	port := h.inspect(name).GetPorts()[0].GetHostPort()
	testenv.Until(h.t, limit, "the neighbour reaches the published port", func() error {
		output, err := neighbour(fmt.Sprintf(`exec 3<>/dev/tcp/192.0.2.1/%d && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && cat <&3`, port))
		if err == nil && !strings.Contains(output, name) {
			err = errors.New("it is somebody else's")
		}
		if err != nil {
			return fmt.Errorf("%w: %s", err, output)
		}
		return nil
	})
	h.mustExec(name, "ping", "-c", "1", "-W", "5", "192.0.2.2")
}

func (h *host) forwardRules() (count int) {
	h.t.Helper()
	return strings.Count(must(h.t, testenv.Peer(h.t, "iptables-nft"), "-S", "FORWARD"), "berth: "+h.Bridge)
}

// A firewall that is set up, or reloaded, while containers run does not cut them off, and nothing is left in it of a bridge that is gone.
func TestFirewallThatChanges(t *testing.T) {
	iptables := testenv.Peer(t, "iptables-nft")
	h, neighbour := newHostApart(t)
	h.Start()
	h.run("web", serve, publish("", 0))
	h.wantPassage(neighbour, "web")
	for _, change := range [][]string{{"-P", "FORWARD", "DROP"}, {"-F", "FORWARD"}} {
		must(t, iptables, change...)
		testenv.Until(t, limit, "the bridge may pass again", func() error {
			if n := h.forwardRules(); n != 2 {
				return fmt.Errorf("it has %d rules", n)
			}
			return nil
		})
		h.wantPassage(neighbour, "web")
	}
	h.Kill()
	must(t, iptables, "-F", "FORWARD")
	h.Start()
	h.wantPassage(neighbour, "web")
	// Two processes that opened the way at once have left two rules; the administrator's own is left alone.
	for _, text := range []string{"berth: " + h.Bridge, "the administrator's"} {
		must(t, iptables, "-A", "FORWARD", "-i", h.Bridge, "-m", "comment", "--comment", text, "-j", "ACCEPT")
	}
	h.remove("web")
	h.Stop()
	if n := h.forwardRules(); n != 0 {
		t.Errorf("%d rules are left", n)
	}
	if rules := must(t, iptables, "-S", "FORWARD"); !strings.Contains(rules, "administrator") {
		t.Errorf("the administrator's rule is gone: %s", rules)
	}
}

// dockerd makes FORWARD drop what is not its own. Containers of both have a network.
func TestBesideDocker(t *testing.T) {
	dockerd := testenv.Peer(t, "dockerd")
	iptables := testenv.Peer(t, "iptables-nft")
	h, neighbour := newHostApart(t)
	dir := testenv.ShortDir(t)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	docker := exec.Command(dockerd, "--host", "unix://"+dir+"/d.sock", "--data-root", dir+"/root", "--exec-root", dir+"/exec",
		"--pidfile", dir+"/pid", "--bip", "172.19.87.1/24", "--ip6tables=false")
	docker.Stdout, docker.Stderr = log, log
	if err := docker.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- docker.Wait() }()
	t.Cleanup(func() {
		_ = docker.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			t.Logf("dockerd ended: %v", err)
		case <-time.After(testenv.Patience(limit)):
			_ = docker.Process.Kill()
			t.Errorf("dockerd did not end by itself: %v", <-ended)
		}
		_ = unix.Unmount(dir+"/exec/netns/default", unix.MNT_DETACH)
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("dockerd's log:\n%s", said)
		}
	})
	testenv.Until(t, 2*limit, "dockerd has set up its firewall", func() error {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("dockerd ended: %v", err)
		default:
		}
		output, err := exec.Command(iptables, "-S", "FORWARD").CombinedOutput()
		if err != nil || !strings.Contains(string(output), "-P FORWARD DROP") || !strings.Contains(string(output), "DOCKER-USER") {
			return fmt.Errorf("%w: %s", err, output)
		}
		return nil
	})
	h.Start()
	h.run("web", serve, publish("", 0))
	h.wantPassage(neighbour, "web")
	if n := h.forwardRules(); n != 2 {
		t.Errorf("the bridge has %d rules in FORWARD", n)
	}
	h.remove("web")
	h.Stop()
	if rules := must(t, iptables, "-S", "FORWARD"); strings.Contains(rules, "berth") || !strings.Contains(rules, "DOCKER-USER") {
		t.Errorf("FORWARD has\n%s", rules)
	}
}
