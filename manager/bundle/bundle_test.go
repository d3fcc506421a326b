package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func request(t *testing.T, change func(*Request)) Request {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, RootfsDir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n", "group": "root:x:0:\nweb:x:34:\nmore:x:50:web\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, RootfsDir, "etc", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := Request{
		ID: "0123", Dir: dir, Spec: &berthv1.ContainerSpec{}, Process: &berthv1.ProcessSpec{Args: []string{"sh"}, WorkingDir: "/"},
		Hostname: "host", CgroupParent: "berth",
	}
	if change != nil {
		change(&r)
	}
	return r
}

func build(t *testing.T, change func(*Request)) *specs.Spec {
	t.Helper()
	spec, err := Build(request(t, change))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestDefaults(t *testing.T) {
	spec := build(t, nil)
	if spec.Linux.CgroupsPath != "/berth/0123" || spec.Hostname != "host" || spec.Process.NoNewPrivileges {
		t.Errorf("cgroup %q, host name %q", spec.Linux.CgroupsPath, spec.Hostname)
	}
	var kinds []string
	for _, namespace := range spec.Linux.Namespaces {
		kinds = append(kinds, string(namespace.Type))
	}
	if got := strings.Join(kinds, " "); got != "mount pid ipc uts cgroup network" {
		t.Errorf("namespaces: %s", got)
	}
	if !slices.Contains(spec.Process.Env, "HOME=/root") || !slices.Contains(spec.Process.Env, defaultPath) || !slices.Contains(spec.Process.Env, "HOSTNAME=host") {
		t.Errorf("environment: %v", spec.Process.Env)
	}
	if spec.Linux.Seccomp == nil || len(spec.Linux.MaskedPaths) == 0 || len(spec.Linux.ReadonlyPaths) == 0 {
		t.Error("seccomp, masked or read-only paths are missing")
	}
	if slices.Contains(spec.Process.Capabilities.Bounding, "CAP_SYS_ADMIN") || !slices.Contains(spec.Process.Capabilities.Effective, "CAP_CHOWN") {
		t.Errorf("capabilities: %v", spec.Process.Capabilities)
	}
	if rules := spec.Linux.Resources.Devices; len(rules) == 0 || rules[0].Allow {
		t.Errorf("devices are not denied first: %v", rules)
	}
}

func TestPrivileged(t *testing.T) {
	spec := build(t, func(r *Request) { r.Spec.Security = &berthv1.Security{Privileged: true} })
	if spec.Linux.Seccomp != nil || len(spec.Linux.MaskedPaths) > 0 || !spec.Linux.Resources.Devices[0].Allow {
		t.Error("a privileged container is confined")
	}
}

func TestUsers(t *testing.T) {
	for _, c := range []struct {
		user     string
		uid, gid uint32
		groups   []uint32
		home     string
	}{
		{"", 0, 0, []uint32{0}, "/root"},
		{"web", 33, 34, []uint32{34, 50}, "/srv"},
		{"33", 33, 34, []uint32{34, 50}, "/srv"},
		{"web:more", 33, 50, []uint32{50}, "/srv"},
		{"1234:5678", 1234, 5678, []uint32{5678}, "/"},
	} {
		spec := build(t, func(r *Request) { r.Process.User = c.user })
		user := spec.Process.User
		if user.UID != c.uid || user.GID != c.gid || !slices.Equal(user.AdditionalGids, c.groups) || !slices.Contains(spec.Process.Env, "HOME="+c.home) {
			t.Errorf("%q: got %+v, %v", c.user, user, spec.Process.Env)
		}
		if c.uid != 0 && len(spec.Process.Capabilities.Effective) > 0 {
			t.Errorf("%q has effective capabilities", c.user)
		}
	}
	_, err := Build(request(t, func(r *Request) { r.Process.User = "nobody-here" }))
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), `"nobody-here"`) {
		t.Errorf("an unknown user: %v", err)
	}
}

// The image's maker decides what lies at /etc/passwd: links lead nowhere on the host, and pipes are not waited for.
func TestHostileAccountFiles(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("evil:x:99:99::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(path string) error{
		"absolute link":  func(path string) error { return os.Symlink(outside, path) },
		"link upwards":   func(path string) error { return os.Symlink(strings.Repeat("../", 20)+outside, path) },
		"link to a file": func(path string) error { return os.Symlink("/proc/self/environ", path) },
		"directory":      func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		r := request(t, func(r *Request) { r.Process.User = "evil" })
		path := filepath.Join(r.Dir, RootfsDir, "etc/passwd")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := plant(path); err != nil {
			t.Fatal(err)
		}
		if spec, err := Build(r); err == nil {
			t.Errorf("%s: found user %+v", name, spec.Process.User)
		}
	}
}

func TestNamespacesOfOthers(t *testing.T) {
	spec := build(t, func(r *Request) {
		r.Spec.Namespaces = &berthv1.Namespaces{Pid: "host", Uts: "host", Ipc: "host"}
		r.Spec.Network = &berthv1.NetworkSpec{Mode: "none"}
		r.Joins = map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "/run/netns/x"}
	})
	for _, namespace := range spec.Linux.Namespaces {
		switch namespace.Type {
		case specs.PIDNamespace, specs.UTSNamespace, specs.IPCNamespace:
			t.Errorf("there is a %s namespace", namespace.Type)
		case specs.NetworkNamespace:
			if namespace.Path != "/run/netns/x" {
				t.Errorf("the network namespace is %q", namespace.Path)
			}
		}
	}
	if spec.Hostname != "" {
		t.Error("the host's name would be changed")
	}
	for _, mount := range spec.Mounts {
		if mount.Destination == "/dev/shm" && mount.Source != "/dev/shm" {
			t.Errorf("/dev/shm is %+v", mount)
		}
	}
}

func TestMountsReplaceDefaultsAndNest(t *testing.T) {
	mount := func(target string) *berthv1.MountState {
		return &berthv1.MountState{Mount: &berthv1.Mount{Type: berthv1.MountType_MOUNT_TYPE_BIND, Target: target, ReadOnly: true}, HostPath: "/host" + target}
	}
	spec := build(t, func(r *Request) {
		r.Mounts = []*berthv1.MountState{mount("/a/b/c"), mount("/a/"), mount("/etc/hosts"), mount("/a/b")}
	})
	var order []string
	for _, m := range spec.Mounts {
		if strings.HasPrefix(m.Source, "/host") {
			order = append(order, m.Destination)
			if !slices.Contains(m.Options, "ro") {
				t.Errorf("%s has options %v", m.Destination, m.Options)
			}
		} else if m.Destination == "/etc/hosts" {
			t.Error("the default /etc/hosts is mounted too")
		}
	}
	if got := strings.Join(order, " "); got != "/a /etc/hosts /a/b /a/b/c" {
		t.Errorf("order: %s", got)
	}
}

func TestMergeProcess(t *testing.T) {
	image := ocispec.ImageConfig{
		Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}, Env: []string{"A=1", "B=2"}, WorkingDir: "/w", User: "web",
	}
	for _, c := range []struct {
		name  string
		asked *berthv1.ProcessSpec
		want  string
	}{
		{"nothing asked", &berthv1.ProcessSpec{}, "entry cmd"},
		{"arguments", &berthv1.ProcessSpec{Args: []string{"x", "y"}}, "entry x y"},
		{"entrypoint", &berthv1.ProcessSpec{Entrypoint: &berthv1.StringList{Values: []string{"e"}}}, "e"},
		{"no entrypoint", &berthv1.ProcessSpec{Entrypoint: &berthv1.StringList{}, Args: []string{"x"}}, "x"},
	} {
		if got := strings.Join(Command(MergeProcess(c.asked, image)), " "); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	merged := MergeProcess(&berthv1.ProcessSpec{Env: []string{"B=3", "C=4", "A"}, User: "root", WorkingDir: "/x"}, image)
	if got := strings.Join(merged.GetEnv(), " "); got != "B=3 C=4" || merged.GetUser() != "root" || merged.GetWorkingDir() != "/x" {
		t.Errorf("merged %v", merged)
	}
}

func TestCapabilities(t *testing.T) {
	all, err := availableCapabilities()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(all, "CAP_NET_ADMIN") {
		t.Skip("needs CAP_NET_ADMIN")
	}
	for _, c := range []struct {
		name      string
		add, drop []string
		has, not  string
	}{
		{"add", []string{"net_admin"}, nil, "CAP_NET_ADMIN", "CAP_SYS_ADMIN"},
		{"drop", nil, []string{"CAP_CHOWN"}, "CAP_KILL", "CAP_CHOWN"},
		{"drop all, add one", []string{"CHOWN"}, []string{"all"}, "CAP_CHOWN", "CAP_KILL"},
		{"add all, drop one", []string{"ALL"}, []string{"CHOWN"}, "CAP_NET_ADMIN", "CAP_CHOWN"},
	} {
		list, err := capabilityList(&berthv1.Security{CapAdd: c.add, CapDrop: c.drop}, false)
		if err != nil || !slices.Contains(list, c.has) || slices.Contains(list, c.not) {
			t.Errorf("%s: %v, %v", c.name, list, err)
		}
	}
}

func TestResources(t *testing.T) {
	limits, err := Resources(&berthv1.Resources{Memory: proto.Int64(64 << 20), NanoCpus: proto.Int64(1_500_000_000), PidsLimit: proto.Int64(10)})
	if err != nil {
		t.Fatal(err)
	}
	if *limits.Memory.Limit != 64<<20 || *limits.Memory.Swap != 128<<20 || *limits.CPU.Quota != 150000 || *limits.CPU.Period != 100000 || *limits.Pids.Limit != 10 {
		t.Errorf("got %+v %+v %+v", limits.Memory, limits.CPU, limits.Pids)
	}
	for text, asked := range map[string]*berthv1.Resources{
		"memory 5":             {Memory: proto.Int64(5)},
		"memory_swap":          {MemorySwap: proto.Int64(1 << 30)},
		"nano_cpus":            {NanoCpus: proto.Int64(1), CpuQuota: proto.Int64(5000)},
		"cpu_period 1 ":        {CpuPeriod: proto.Uint64(1)},
		"oom_score_adj 2000":   {OomScoreAdj: proto.Int32(2000)},
		"memory_swappiness":    {MemorySwappiness: proto.Uint64(101)},
		"stat /no/device":      {BlkioThrottles: []*berthv1.BlkioThrottle{{Kind: berthv1.ThrottleKind_THROTTLE_KIND_READ_BPS, Path: "/no/device"}}},
		"not a block device":   {BlkioThrottles: []*berthv1.BlkioThrottle{{Kind: berthv1.ThrottleKind_THROTTLE_KIND_READ_BPS, Path: "/dev/null"}}},
		"blkio_weight 5 is no": {BlkioWeight: proto.Uint32(5)},
	} {
		if _, err := Resources(asked); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: got %v, want an error with %q", asked, err, text)
		}
	}
}

func TestDevices(t *testing.T) {
	spec := build(t, func(r *Request) {
		r.Spec.Resources = &berthv1.Resources{
			Devices:           []*berthv1.Device{{HostPath: "/dev/null", ContainerPath: "/dev/nothing", Permissions: "r"}},
			DeviceCgroupRules: []string{"c 10:* rw"},
		}
	})
	if device := spec.Linux.Devices[0]; device.Path != "/dev/nothing" || device.Major != 1 || device.Minor != 3 {
		t.Errorf("device %+v", device)
	}
	rules := spec.Linux.Resources.Devices
	if last := rules[len(rules)-1]; last.Type != "c" || *last.Major != 10 || last.Minor != nil || last.Access != "rw" {
		t.Errorf("rule %+v", last)
	}
	for _, bad := range []*berthv1.Resources{
		{Devices: []*berthv1.Device{{HostPath: "/dev/none"}}},
		{Devices: []*berthv1.Device{{HostPath: "/dev/null", Permissions: "x"}}},
		{Devices: []*berthv1.Device{{HostPath: "/dev/null", ContainerPath: "relative"}}},
		{DeviceCgroupRules: []string{"c 1 r"}},
		{Ulimits: []*berthv1.Ulimit{{Name: "nosuch"}}},
		{Ulimits: []*berthv1.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}}},
	} {
		if _, err := Build(request(t, func(r *Request) { r.Spec.Resources = bad })); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestWriteAndEnvironment(t *testing.T) {
	r := request(t, func(r *Request) { r.Process.Env = []string{"X=1"} })
	env, err := Write(r)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Environment(r.Dir)
	if err != nil || !slices.Equal(env, again) || !slices.Contains(env, "X=1") {
		t.Errorf("wrote %v, read %v, %v", env, again, err)
	}
	if merged := ExecEnvironment(env, []string{"X=2"}, true); !slices.Contains(merged, "X=2") || !slices.Contains(merged, "TERM=xterm") {
		t.Errorf("for an exec: %v", merged)
	}
}

// Ranges that overlap a hundred thousand times would keep a processor busy for minutes.
func TestLongSetIsRefused(t *testing.T) {
	if set, err := parseSet(strings.Repeat("0-65535,", 600) + "0"); err == nil {
		t.Errorf("it has %d numbers", len(set))
	}
	if set, err := parseSet("0-2,4"); err != nil || len(set) != 4 {
		t.Errorf("got %v, %v", set, err)
	}
}
