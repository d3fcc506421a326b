package checkpoint_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

func jsonNumber(n int) string { return strconv.Itoa(n) }

// What the container sees around it is the same after the restore.
func TestFileSystem(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, `echo kept >/run/file; cd /tmp; exec 7</etc/one; `+echo)
	for name, content := range map[string]string{"dir/inner/file": "of the host\n", "one": "a file\n"} {
		if err := os.MkdirAll(c.path("dir/inner"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(c.path(name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/var", c.Rootfs+"/link"); err != nil {
		t.Fatal(err)
	}
	c.Spec.Mounts = append(c.Spec.Mounts,
		specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		specs.Mount{Destination: "/host", Type: "bind", Source: "/sys", Options: []string{"rbind", "ro"}}, // with mounts in it
		specs.Mount{Destination: "/run/bound", Type: "bind", Source: c.path("dir"), Options: []string{"rbind", "ro"}},
		specs.Mount{Destination: "/link/deep/dir", Type: "none", Source: "dir", Options: []string{"bind", "nosuid"}},
		specs.Mount{Destination: "/etc/one", Source: c.path("one"), Options: []string{"bind"}},
	)
	talk := c.run()
	talk.ask("a", "a 1")
	const look = `ls /host/fs/cgroup; cat /run/file /run/bound/inner/file /link/deep/dir/inner/file /etc/one /proc/1/fd/7; touch /run/bound/x; readlink /proc/1/cwd;
		ls -la /proc/kcore /proc/keys /sys/firmware /dev | sed 's/  */ /g' | cut -d' ' -f1,3- | sed 's/ [A-Z][a-z]* [0-9]* [0-9:]* / /';
		cut -d' ' -f5,6 /proc/self/mountinfo | grep -v -E '^/proc/(kcore|keys|timer_list|sched_debug)|/tracing ' | sort; grep -E 'Cap|Seccomp:|Umask' /proc/1/status; cat /proc/1/limits; cat /proc/1/cgroup`
	before := c.must("exec", c.ID, "sh", "-c", look)
	c.checkpoint()
	// As a root file system that was made anew would have none of them.
	for _, point := range []string{"/var/deep/dir", "/var/deep", "/etc/one", "/run"} {
		if err := os.Remove(c.Rootfs + point); err != nil {
			t.Fatal(err)
		}
	}
	c.restore().ask("b", "b 2")
	if after := c.must("exec", c.ID, "sh", "-c", look); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestTerminal(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "tty; stty size; while read line; do echo got $line; done")
	c.Spec.Process.Terminal = true
	c.Spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
	c.writeConfig()
	path, accept := consoleSocket(t, c)
	c.detached("run", "--detach", "--bundle", c.Dir, "--console-socket", path, c.ID)
	talk := accept()
	talk.expect("/dev/pts/0")
	talk.expect("33 77")
	c.checkpoint()
	c.restore("--console-socket", path)
	talk = accept()
	if _, err := talk.out.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	talk.expect("hello")
	talk.expect("got hello")
}

// consoleSocket returns the path of a socket, and what receives the terminal that is sent to it.
func consoleSocket(t testing.TB, c *container) (string, func() *conversation) {
	t.Helper()
	path := c.path("console")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return path, func() *conversation {
		conn, err := listener.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		control := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 256), control)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil || len(messages) != 1 {
			t.Fatalf("%d messages, %v", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			t.Fatal(err)
		}
		return talkOver(t, fds[0])
	}
}

// The network is not in the checkpoint: hooks make it, and loopback is there.
func TestHooks(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	note := func(kind string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >" + c.path(kind)}}}
	}
	c.Spec.Hooks = &specs.Hooks{CreateRuntime: note("createRuntime"), Poststart: note("poststart"), Poststop: note("poststop")}
	c.Spec.Hooks.CreateContainer = note("createContainer")
	c.Spec.Hooks.StartContainer = []specs.Hook{{Path: "/bin/touch", Args: []string{"touch", "/hooks/startContainer"}}}
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/hooks", Source: c.Dir, Options: []string{"bind"}})
	c.Spec.Hooks.Prestart = note("prestart") //nolint:staticcheck // deprecated, and still what people have
	c.run().ask("a", "a 1")
	hooks := []string{"prestart", "createRuntime", "poststop", "poststart", "createContainer", "startContainer"}
	c.checkpoint()
	if got := c.heard(hooks[2]); got.Status != specs.StateStopped {
		t.Errorf("poststop: %+v", got)
	}
	for _, kind := range hooks {
		if err := os.Remove(c.path(kind)); err != nil {
			t.Error(err)
		}
	}
	c.restore().ask("b", "b 2")
	for _, kind := range hooks[2:] { // what is not made, and not started, has none of them
		if _, err := os.Stat(c.path(kind)); err == nil {
			t.Errorf("%s hooks have run at the restore", kind)
		}
	}
	pid := c.state().Pid
	for _, kind := range hooks[:2] {
		if got := c.heard(kind); got.Status != specs.StateCreating || got.Pid != pid || got.ID != c.ID {
			t.Errorf("%s: %+v", kind, got)
		}
	}
	if got := c.must("exec", c.ID, "ip", "address", "show", "lo"); !strings.Contains(got, "127.0.0.1") || !strings.Contains(got, "LOOPBACK,UP") {
		t.Errorf("loopback: %s", got)
	}
}

// heard returns the state that a hook was given.
func (c *container) heard(kind string) (state specs.State) {
	c.t.Helper()
	content, err := os.ReadFile(c.path(kind))
	if err == nil {
		err = json.Unmarshal(content, &state)
	}
	if err != nil {
		c.t.Fatalf("%s: %v", kind, err)
	}
	return state
}

// Network devices that the container was given are given to it again, and have the settings that the configuration has.
func TestNetworkDevices(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	one, other := "bt"+jsonNumber(os.Getpid()), "bu"+jsonNumber(os.Getpid())
	add := func() {
		t.Helper()
		// It goes with the network that it is in, which takes the kernel a while.
		testenv.Until(t, time.Minute, "the devices are made", func() error {
			if r := testenv.Execute(t, exec.Command("ip", "link", "add", one, "type", "veth", "peer", "name", other)); r.Status != 0 {
				return errors.New(r.Stderr)
			}
			return nil
		})
	}
	t.Cleanup(func() { testenv.Execute(t, exec.Command("ip", "link", "delete", other)) })
	c.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{one: {Name: "inside0"}}
	c.Spec.Linux.Sysctl = map[string]string{"net.ipv4.conf.inside0.log_martians": "1"}
	add()
	c.run().ask("a", "a 1")
	c.checkpoint()
	add()
	c.restore().ask("b", "b 2")
	const look = "ip link show inside0 && cat /proc/sys/net/ipv4/conf/inside0/log_martians"
	if got := c.must("exec", c.ID, "sh", "-c", look); !strings.Contains(got, "UP") || !strings.HasSuffix(got, "\n1\n") {
		t.Errorf("the device: %s", got)
	}
}

// A network namespace that is joined is the host's, and stays.
func TestJoinedNetwork(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	sleeper := exec.Command("unshare", "--net", "sh", "-c", "echo; exec sleep 1000")
	talk := connect(t, sleeper)
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = sleeper.Process.Kill(), sleeper.Wait() })
	talk.expect("")
	path := "/proc/" + jsonNumber(sleeper.Process.Pid) + "/ns/net"
	for i, n := range c.Spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			c.Spec.Linux.Namespaces[i].Path = path
		}
	}
	want, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	c.run().ask("a", "a 1")
	c.checkpoint()
	c.restore().ask("b", "b 2")
	if got := strings.TrimSpace(c.must("exec", c.ID, "readlink", "/proc/1/ns/net")); got != want {
		t.Errorf("network namespace %s, want %s", got, want)
	}
}

func TestLimits(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	limit := int64(123)
	c.Spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
	c.run().ask("a", "a 1")
	c.checkpoint()
	c.restore("--manage-cgroups-mode", "soft").ask("b", "b 2")
	file := "/sys/fs/cgroup" + testenv.CgroupParent + "/" + c.ID + "/pids.max"
	if _, err := os.Stat(file); err != nil {
		file = "/sys/fs/cgroup/pids" + testenv.CgroupParent + "/" + c.ID + "/pids.max"
	}
	if got, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(got)) != "123" {
		t.Errorf("pids.max %q, %v", got, err)
	}
	if got := c.must("ps", "--format", "json", c.ID); !strings.Contains(got, jsonNumber(c.state().Pid)) {
		t.Errorf("ps: %s", got)
	}
}

// Without a cgroup namespace the container sees its part of the host's cgroups, which is another one after the restore.
func TestHostCgroups(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	c.Spec.Linux.Namespaces = slices.DeleteFunc(c.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	c.run().ask("a", "a 1")
	part := "/sys/fs/cgroup" // cgroup v1 shows nothing else
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		part += testenv.CgroupParent + "/" + c.ID
	}
	look := fmt.Sprintf("find %[1]s -name cgroup.procs | sort; grep -c . $(find %[1]s -name cgroup.procs | sort); cut -d: -f2- /proc/1/cgroup | grep berth-test", part)
	before := c.must("exec", c.ID, "sh", "-c", look)
	c.checkpoint()
	c.restore().ask("b", "b 2")
	if after := c.must("exec", c.ID, "sh", "-c", look); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestUserNamespace(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "id -u; "+echo)
	c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	mappings := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	c.Spec.Linux.UIDMappings, c.Spec.Linux.GIDMappings = mappings, mappings
	chown := exec.Command("chown", "-R", "-h", "100000:100000", c.Rootfs)
	if r := testenv.Execute(t, chown); r.Status != 0 {
		t.Fatalf("chown: %+v", r)
	}
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	talk := c.run()
	talk.expect("0")
	talk.ask("a", "a 1")
	if err := os.Mkdir(c.path("images"), 0o711); err != nil { // criu reads images as the container's root too
		t.Fatal(err)
	}
	c.checkpoint()
	c.restore().ask("b", "b 2")
}

// A container that comes back with more rights than it had does not do so silently.
func TestNoNewPrivileges(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	c.Spec.Process.NoNewPrivileges = true
	c.run().ask("a", "a 1")
	c.checkpoint()
	command := c.command("restore", "--detach", "--bundle", c.Dir, "--image-path", c.path("images"), c.ID)
	command.Args = append([]string{command.Args[0], "--log", c.path("log")}, command.Args[1:]...)
	talk := connect(t, command)
	if err := command.Run(); err != nil {
		t.Fatalf("restore: %v\n%s", err, c.logs())
	}
	talk.ask("b", "b 2")
	kept := strings.Contains(c.must("exec", c.ID, "cat", "/proc/1/status"), "NoNewPrivs:\t1")
	log, err := os.ReadFile(c.path("log"))
	if warned := err == nil && strings.Contains(string(log), "noNewPrivileges"); warned == kept {
		t.Errorf("kept: %v, warned: %v, log %q", kept, warned, log)
	}
}
