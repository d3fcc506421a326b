package runtime_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// namespaceOf returns a name like net:[4026531840].
func namespaceOf(t testing.TB, pid, kind string) string {
	t.Helper()
	link, err := os.Readlink(filepath.Join("/proc", pid, "ns", kind))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestNewNamespaces(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.Spec.Linux.Namespaces = append(withoutNamespace(c.Spec, specs.CgroupNamespace), specs.LinuxNamespace{Type: specs.CgroupNamespace}, specs.LinuxNamespace{Type: specs.TimeNamespace})
	c.start()
	pid := strconv.Itoa(c.state().Pid)
	for _, kind := range []string{"pid", "net", "ipc", "uts", "mnt", "cgroup", "time"} {
		if namespaceOf(t, pid, kind) == namespaceOf(t, "self", kind) {
			t.Errorf("the container shares the %s namespace of the host", kind)
		}
		wantEqual(t, strings.TrimSpace(c.must("exec", c.ID, "readlink", "/proc/self/ns/"+kind)), namespaceOf(t, pid, kind))
	}
	wantEqual(t, namespaceOf(t, pid, "user"), namespaceOf(t, "self", "user"))
	wantEqual(t, c.must("exec", c.ID, "hostname"), "runc\n")
	wantEqual(t, c.must("exec", c.ID, "sh", "-c", "ifconfig lo | grep -c RUNNING"), "1\n") // as runc does
}

func TestNamespacesOfTheHost(t *testing.T) {
	c := newContainer(t).shell("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc")
	c.Spec.Linux.Namespaces = withoutNamespace(c.Spec, specs.NetworkNamespace)
	c.Spec.Linux.Namespaces = withoutNamespace(c.Spec, specs.IPCNamespace)
	wantEqual(t, c.output(), namespaceOf(t, "self", "net")+"\n"+namespaceOf(t, "self", "ipc")+"\n")
}

func TestJoinedNamespaces(t *testing.T) {
	first := sleeping(t, nil)
	pid := strconv.Itoa(first.state().Pid)
	c := newContainer(t)
	kinds := map[specs.LinuxNamespaceType]string{
		specs.PIDNamespace: "pid", specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
	}
	script := ""
	want := ""
	for i, namespace := range c.Spec.Linux.Namespaces {
		if kind, ok := kinds[namespace.Type]; ok {
			c.Spec.Linux.Namespaces[i].Path = filepath.Join("/proc", pid, "ns", kind)
			script += "readlink /proc/self/ns/" + kind + ";"
			want += namespaceOf(t, pid, kind) + "\n"
		}
	}
	c.shell(script + "cat /proc/1/comm")
	wantEqual(t, c.output(), want+"sleep\n")
}

// kindsOfNamespaces are the types with the names of their files.
var kindsOfNamespaces = []struct {
	kind specs.LinuxNamespaceType
	file string
}{
	{specs.UserNamespace, "user"},
	{specs.PIDNamespace, "pid"},
	{specs.NetworkNamespace, "net"},
	{specs.IPCNamespace, "ipc"},
	{specs.UTSNamespace, "uts"},
	{specs.MountNamespace, "mnt"},
	{specs.CgroupNamespace, "cgroup"},
	{specs.TimeNamespace, "time"},
}

// TestJoinedUserNamespace joins a user namespace, and of the others some that it owns, while the rest is new.
func TestJoinedUserNamespace(t *testing.T) {
	first := newContainer(t, "sleep", "1000")
	mapUsers(t, first)
	first.Spec.Linux.Namespaces = append(withoutNamespace(first.Spec, specs.CgroupNamespace), specs.LinuxNamespace{Type: specs.CgroupNamespace}, specs.LinuxNamespace{Type: specs.TimeNamespace})
	first.start()
	pid := strconv.Itoa(first.state().Pid)
	for name, joined := range map[string][]specs.LinuxNamespaceType{
		"alone":        {specs.UserNamespace},
		"with pid":     {specs.UserNamespace, specs.PIDNamespace},
		"with network": {specs.UserNamespace, specs.NetworkNamespace, specs.UTSNamespace, specs.IPCNamespace},
		"with all":     {specs.UserNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.TimeNamespace},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "sleep", "1000")
			mapUsers(t, c)
			c.Spec.Linux.Namespaces = nil
			for _, n := range kindsOfNamespaces {
				namespace := specs.LinuxNamespace{Type: n.kind}
				if slices.Contains(joined, n.kind) {
					namespace.Path = filepath.Join("/proc", pid, "ns", n.file)
				}
				c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, namespace)
			}
			c.start()
			own := strconv.Itoa(c.state().Pid)
			for _, n := range kindsOfNamespaces {
				shared := namespaceOf(t, own, n.file) == namespaceOf(t, pid, n.file)
				if shared != slices.Contains(joined, n.kind) || namespaceOf(t, own, n.file) == namespaceOf(t, "self", n.file) {
					t.Errorf("%s: shared with the first container: %v", n.file, shared)
				}
				wantEqual(t, strings.TrimSpace(c.must("exec", c.ID, "readlink", "/proc/self/ns/"+n.file)), namespaceOf(t, own, n.file))
			}
			wantEqual(t, c.must("exec", c.ID, "sh", "-c", "id -u; tr -s ' ' < /proc/self/uid_map; echo x > /dev/null"), "0\n 0 231072 65536\n")
			c.must("delete", "--force", c.ID)
			c.shell("echo controlled > /dev/tty") // which takes a session of its own
			c.Spec.Process.Terminal = true
			wantEqual(t, c.output(), "controlled\n")
		})
	}
	other := newContainer(t, "true")
	mapUsers(t, other)
	other.Spec.Linux.Namespaces[len(other.Spec.Linux.Namespaces)-1].Path = filepath.Join("/proc", pid, "ns/user")
	other.Spec.Linux.UIDMappings[0].Size--
	other.refused("linux.uidMappings: they are not those of the user namespace")
}

// TestJoinedBesideANewUserNamespace joins each kind that a new user namespace doesn't own, and has the rest new.
func TestJoinedBesideANewUserNamespace(t *testing.T) {
	first := newContainer(t, "sleep", "1000")
	first.Spec.Linux.Namespaces = append(withoutNamespace(first.Spec, specs.CgroupNamespace), specs.LinuxNamespace{Type: specs.CgroupNamespace}, specs.LinuxNamespace{Type: specs.TimeNamespace})
	first.start()
	pid := strconv.Itoa(first.state().Pid)
	for _, joined := range kindsOfNamespaces {
		if joined.kind == specs.UserNamespace || joined.kind == specs.MountNamespace {
			continue
		}
		t.Run(joined.file, func(t *testing.T) {
			c := newContainer(t, "sleep", "1000")
			c.Spec.Linux.Namespaces = nil
			for _, n := range kindsOfNamespaces[1:] {
				c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: n.kind})
			}
			c.join(joined.kind, filepath.Join("/proc", pid, "ns", joined.file))
			c.Spec.Mounts = slices.DeleteFunc(c.Spec.Mounts, func(m specs.Mount) bool { // of namespaces that the container doesn't own
				return m.Destination == "/sys" && joined.file == "net" || m.Destination == "/dev/mqueue" && joined.file == "ipc" || m.Destination == "/proc" && joined.file == "pid" ||
					m.Type == "cgroup" && joined.file == "cgroup"
			})
			c.Spec.Hostname = "" // nor may it name that
			mapUsers(t, c)
			c.start()
			own := strconv.Itoa(c.state().Pid)
			for _, n := range kindsOfNamespaces {
				if shared := namespaceOf(t, own, n.file) == namespaceOf(t, pid, n.file); shared != (n.kind == joined.kind) {
					t.Errorf("%s: shared with the first container: %v", n.file, shared)
				}
			}
			wantEqual(t, c.must("exec", c.ID, "id", "-u"), "0\n")
		})
	}
}

func TestNamespaceErrors(t *testing.T) {
	for _, n := range kindsOfNamespaces {
		wrong := "/proc/self/ns/ipc"
		if n.kind == specs.IPCNamespace {
			wrong = "/proc/self/ns/net"
		}
		paths := map[string]string{wrong: fmt.Sprintf("cannot join namespace %q: it is no %s namespace", wrong, n.kind)}
		if n.kind == specs.NetworkNamespace {
			paths["/does/not/exist"] = `cannot open the network namespace "/does/not/exist"`
			paths["/dev/null"] = `cannot join namespace "/dev/null": it is no network namespace`
			paths["relative"] = `"relative" is not an absolute path`
		}
		for path, want := range paths {
			c := newContainer(t, "true")
			c.Spec.Linux.Namespaces = append(withoutNamespace(c.Spec, n.kind), specs.LinuxNamespace{Type: n.kind, Path: path})
			c.refused(want)
		}
		c := newContainer(t, "true")
		c.Spec.Linux.Namespaces = append(withoutNamespace(c.Spec, n.kind), specs.LinuxNamespace{Type: n.kind}, specs.LinuxNamespace{Type: n.kind})
		c.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 1000, Size: 1}}
		c.Spec.Linux.GIDMappings = c.Spec.Linux.UIDMappings
		c.refused(string(n.kind) + " is given twice")
	}
	foreign := newContainer(t, "true")
	mapUsers(t, foreign)
	foreign.join(specs.MountNamespace, "/proc/self/ns/mnt")
	foreign.refused("linux.namespaces: the root of a new user namespace may not ")
	c := newContainer(t, "true")
	c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: "nonsense"})
	c.refused(`"nonsense"`)
}

// mapUsers gives the container a user namespace, and its root file system to the namespace's root.
func mapUsers(t testing.TB, c *container) {
	t.Helper()
	const host, size = 231072, 65536
	c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	c.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: host, Size: size}}
	c.Spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: host, Size: size}}
	if output, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%d", host, host), c.Rootfs).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
}

func TestUserNamespace(t *testing.T) {
	c := newContainer(t)
	mapUsers(t, c)
	c.Spec.Root.Readonly = false
	c.Spec.Process.User = specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}}
	c.shell("id -u; id -G; tr -s ' ' < /proc/self/uid_map; touch /tmp/mine; echo x > /dev/null && echo devices work; ls -lnd /bin | grep -c ' 0 *0 '; echo $HOME")
	wantEqual(t, c.output(), "5\n6 7\n 0 231072 65536\ndevices work\n1\n/\n")
	info, err := os.Stat(filepath.Join(c.Rootfs, "tmp/mine"))
	if err != nil {
		t.Fatal(err)
	}
	wantContains(t, fmt.Sprint(info.Sys()), "231077")
}

func TestExecInAUserNamespace(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	mapUsers(t, c)
	c.start()
	wantEqual(t, c.must("exec", c.ID, "sh", "-c", "id -u; tr -s ' ' < /proc/self/uid_map"), "0\n 0 231072 65536\n")
}

func TestTimeOffsets(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	c.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 100000000}, "monotonic": {Secs: -3, Nanosecs: 500000000}}
	c.start()
	out := strings.Fields(c.must("exec", c.ID, "cat", "/proc/1/timens_offsets", "/proc/self/timens_offsets", "/proc/uptime"))
	const offsets = "monotonic -3 500000000 boottime 100000000 0"
	if got := strings.Join(out[:12], " "); got != offsets+" "+offsets {
		t.Errorf("offsets %q", got)
	}
	if uptime, err := strconv.ParseFloat(out[12], 64); err != nil || uptime < 100000000 {
		t.Errorf("uptime %v, %v", uptime, err)
	}
	before := newContainer(t, "true")
	before.Spec.Linux.Namespaces = c.Spec.Linux.Namespaces
	before.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: -1 << 40}}
	before.refused("linux.timeOffsets")

	// The offsets belong to the host's root, as the process hides from others, and the container's root is another user.
	mapped := newContainer(t, "cat", "/proc/self/timens_offsets")
	mapped.Spec.Linux.Namespaces = append(mapped.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	mapped.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1337, Nanosecs: 3141519}, "monotonic": {Secs: 7881, Nanosecs: 2718281}}
	mapUsers(t, mapped)
	inOneLine := func(text string) string { return strings.Join(strings.Fields(text), " ") }
	const want = "monotonic 7881 2718281 boottime 1337 3141519"
	wantEqual(t, inOneLine(mapped.output()), want)
	mapped.Spec.Process.Args = []string{"sleep", "1000"}
	mapped.start()
	wantEqual(t, inOneLine(mapped.must("exec", mapped.ID, "cat", "/proc/self/timens_offsets")), want)
	// and in the user namespace of another container
	joined := newContainer(t, "cat", "/proc/self/timens_offsets")
	joined.Spec.Linux.Namespaces = append(joined.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace},
		specs.LinuxNamespace{Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/%d/ns/user", mapped.state().Pid)})
	joined.Spec.Linux.TimeOffsets = mapped.Spec.Linux.TimeOffsets
	if output, err := exec.Command("chown", "-R", "231072:231072", joined.Rootfs).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	wantEqual(t, inOneLine(joined.output()), want)
}

// TestMappings: ranges that don't follow each other, and other ones for groups.
func TestMappings(t *testing.T) {
	c := newContainer(t).shell("id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; touch /dev/shm/x; stat -c %u:%g /dev/shm/x")
	mapUsers(t, c)
	c.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 5000, Size: 2}, {ContainerID: 0, HostID: 231072, Size: 10}, {ContainerID: 4294967294, HostID: 7000, Size: 1}}
	c.Spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 231072, Size: 1}, {ContainerID: 50, HostID: 60, Size: 1}}
	c.Spec.Mounts = slices.DeleteFunc(c.Spec.Mounts, func(m specs.Mount) bool { return m.Type == "devpts" }) // its group is not there
	c.Spec.Process.User = specs.User{UID: 1001, GID: 50}
	wantEqual(t, c.output(), "1001\n50\n 1000 5000 2\n 0 231072 10\n4294967294 7000 1\n 0 231072 1\n 50 60 1\n1001:50\n")
	c.Spec.Process.User.UID = 11
	c.refused("user 11")
}

func TestNamesOfTheHost(t *testing.T) {
	c := newContainer(t).shell("hostname; cat /proc/sys/kernel/domainname")
	c.Spec.Hostname, c.Spec.Domainname = "inner", "example"
	wantEqual(t, c.output(), "inner\nexample\n")
	host, _ := os.Hostname()
	if host == "inner" {
		t.Error("the host's name has changed")
	}
}

func TestSysctls(t *testing.T) {
	c := newContainer(t).shell("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax")
	c.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.msgmax": "9000"}
	wantEqual(t, c.output(), "1\n9000\n")
	bad := newContainer(t, "true")
	bad.Spec.Linux.Sysctl = map[string]string{"net.does.not.exist": "1"}
	bad.refused(`"net.does.not.exist"`)
	mapped := newContainer(t).shell("cat /proc/sys/user/max_ipc_namespaces /proc/sys/net/ipv4/ping_group_range")
	mapUsers(t, mapped)
	mapped.Spec.Linux.Sysctl = map[string]string{"user.max_ipc_namespaces": "55", "net/ipv4/ping_group_range": "0 5"}
	wantEqual(t, mapped.output(), "55\n0\t5\n")
	for namespace, name := range map[string]string{"net": "net.ipv4.ip_forward", "ipc": "kernel.msgmax", "uts": "kernel.domainname"} {
		host := newContainer(t, "true")
		host.Spec.Linux.Sysctl = map[string]string{name: "1"}
		for i, n := range host.Spec.Linux.Namespaces {
			if strings.HasPrefix(string(n.Type), namespace) {
				host.Spec.Linux.Namespaces[i].Path = "/proc/self/ns/" + namespace
			}
		}
		host.refused(fmt.Sprintf("linux.sysctl %q: the namespace that has it is the host's", name))
	}
}

// withDevices is a command in a network namespace of its own, so that the devices of the machine are left alone: there is
// a pair of devices, outer with two addresses and other, and another namespace by the name joined.
func withDevices(t *testing.T, command ...string) *exec.Cmd {
	unshare := testenv.Peer(t, "unshare")
	testenv.Peer(t, "ip")
	const script = `mount -t tmpfs none /run && ip netns add joined && ip link add outer type veth peer name other &&
		ip addr add 10.99.1.2/24 dev outer && ip addr add fd99::2/64 dev outer nodad && ip link set outer mtu 1400 && "$@"; status=$?
		ip -o link show | grep -c ": outer"; exit $status`
	return exec.Command(unshare, append([]string{"--net", "--mount", "sh", "-c", script, "sh"}, command...)...)
}

func TestNetDevices(t *testing.T) {
	for name, namespaces := range map[string][]specs.LinuxNamespace{
		"new":                              {{Type: specs.NetworkNamespace}},
		"joined":                           {{Type: specs.NetworkNamespace, Path: "/run/netns/joined"}},
		"joined, and a new of time":        {{Type: specs.NetworkNamespace, Path: "/run/netns/joined"}, {Type: specs.TimeNamespace}},
		"new, and owned by a new of users": {{Type: specs.NetworkNamespace}, {Type: specs.UserNamespace}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t).shell("ip -o addr show mine; ip -o link show mine | grep -c ,UP; ip -o link show | wc -l; cat /proc/sys/net/ipv4/conf/mine/forwarding")
			c.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"outer": {Name: "mine"}}
			c.Spec.Linux.Sysctl = map[string]string{"net.ipv4.conf.mine.forwarding": "1"}
			if len(namespaces) == 2 && namespaces[1].Type == specs.UserNamespace {
				mapUsers(t, c)
				namespaces = namespaces[:1]
			}
			c.Spec.Linux.Namespaces = append(withoutNamespace(c.Spec, specs.NetworkNamespace), namespaces...)
			c.writeConfig()
			r := testenv.Execute(t, withDevices(t, c.command("run", "--bundle", c.Bundle, c.ID).Args...))
			for _, want := range []string{"inet 10.99.1.2/24", "inet6 fd99::2/64", "\n1\n2\n1\n0\n"} {
				if !strings.Contains(r.Stdout, want) {
					t.Errorf("%+v, want %q", r, want)
				}
			}
		})
	}
}

func TestNetDevicesRefuse(t *testing.T) {
	for name, test := range map[string]struct {
		devices map[string]specs.LinuxNetDevice
		want    string
	}{
		"no such device": {map[string]specs.LinuxNetDevice{"outer": {}, "nothing-there": {}}, `"nothing-there": there is no such device`},
		"a name taken":   {map[string]specs.LinuxNetDevice{"outer": {Name: "lo"}}, `"outer": the container has a device "lo" already`},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "true")
			c.Spec.Linux.NetDevices = test.devices
			c.writeConfig()
			r := testenv.Execute(t, withDevices(t, c.command("run", "--bundle", c.Bundle, c.ID).Args...))
			if r.Status == 0 || !strings.Contains(r.Stderr, test.want) || r.Stdout != "1\n" {
				t.Errorf("%+v, want %q and the device where it was", r, test.want)
			}
			c.gone()
		})
	}
}
