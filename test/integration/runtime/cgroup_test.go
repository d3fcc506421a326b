package runtime_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

func pointer[T any](value T) *T { return &value }

func onV2(t testing.TB) bool {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &stat); err != nil {
		t.Skip("no cgroup file system")
	}
	return stat.Type == unix.CGROUP2_SUPER_MAGIC
}

// cgroupFile reads a file of the container's cgroup: v1 as controller/file, v2 as the file.
func (c *container) cgroupFile(v1, v2 string) string {
	c.t.Helper()
	if onV2(c.t) {
		return readFile(c.t, filepath.Join("/sys/fs/cgroup", c.Spec.Linux.CgroupsPath, v2))
	}
	controller, file, _ := strings.Cut(v1, "/")
	return readFile(c.t, filepath.Join("/sys/fs/cgroup", controller, c.Spec.Linux.CgroupsPath, file))
}

type limited struct{ v1, v2, wantV1, wantV2 string }

func (c *container) checkLimits(limits []limited) {
	c.t.Helper()
	for _, l := range limits {
		file, want := l.v1, l.wantV1
		if onV2(c.t) {
			file, want = l.v2, l.wantV2
		}
		if file == "" {
			continue
		}
		if got := c.cgroupFile(l.v1, l.v2); got != want {
			c.t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
}

func TestResources(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.Spec.Linux.Resources = &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: pointer(int64(64 << 20)), Reservation: pointer(int64(16 << 20))},
		CPU:    &specs.LinuxCPU{Shares: pointer(uint64(512)), Quota: pointer(int64(20000)), Period: pointer(uint64(50000)), Cpus: "0", Mems: "0"},
		Pids:   &specs.LinuxPids{Limit: pointer(int64(20))},
	}
	c.start()
	c.checkLimits([]limited{
		{"memory/memory.limit_in_bytes", "memory.max", "67108864", "67108864"},
		{"memory/memory.soft_limit_in_bytes", "memory.low", "16777216", "16777216"},
		{"cpu/cpu.shares", "cpu.weight", "512", "59"},
		{"cpu/cpu.cfs_quota_us", "cpu.max", "20000", "20000 50000"},
		{"cpu/cpu.cfs_period_us", "", "50000", ""},
		{"cpuset/cpuset.cpus", "cpuset.cpus", "0", "0"},
		{"pids/pids.max", "pids.max", "20", "20"},
	})
	c.must("delete", "--force", c.ID)
	c.gone()
}

func TestPidsLimitIsEnforced(t *testing.T) {
	c := newContainer(t).shell("for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo all")
	c.Spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: pointer(int64(5))}
	if r := c.run(); strings.Contains(r.Stdout, "all") || !strings.Contains(r.Stderr, "can't fork") {
		t.Errorf("%+v", r)
	}
	c.gone()
}

// TestNoTasksBeforeTheyCounted: until 1.3 of the specification a limit of 0 was none.
func TestNoTasksBeforeTheyCounted(t *testing.T) {
	for version, want := range map[string]int{"1.0.2-dev": 0, "1.2.1": 0, "1.3.0": 2} {
		c := newContainer(t).shell("(exit 0); true")
		c.Spec.Version, c.Spec.Linux.Resources.Pids = version, &specs.LinuxPids{Limit: pointer(int64(0))}
		if r := c.run(); r.Status != want {
			t.Errorf("a second process with version %s: %+v", version, r)
		}
	}
}

func TestMemoryForNoSetup(t *testing.T) {
	c := newContainer(t, "true")
	c.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: pointer(int64(1000))}
	c.refused("1000")
}

// TestMemoryLimitIsEnforced takes memory in the container's only process: with several, the kernel may kill another one
// than the one that takes too much, since what a dead process has held is given back to the group a little later.
func TestMemoryLimitIsEnforced(t *testing.T) {
	for limit, want := range map[int64]int{32 << 20: 137, 256 << 20: 0} {
		c := newContainer(t, "dd", "if=/dev/zero", "of=/dev/null", "bs=90M", "count=1")
		c.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		if onV2(t) {
			c.Spec.Linux.Resources.Memory.Swap = &limit
		}
		if r := c.run(); r.Status != want {
			t.Errorf("a program that takes 90 MiB of %d: %+v", limit, r)
		}
		c.gone()
	}
}

// TestDevices denies and allows devices, as seen by who opens them.
func TestDevices(t *testing.T) {
	script := "for d in null zero full random urandom tty ptmx kmsg; do (: < /dev/$d) 2>/dev/null; echo $d $?; done; mknod /tmp/own c 1 11 && (: < /tmp/own) 2>/dev/null; echo own $?"
	kmsg := specs.LinuxDevice{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11, FileMode: pointer(os.FileMode(0o666))}
	for name, test := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  string
	}{
		"denied":             {[]specs.LinuxDeviceCgroup{{Access: "rwm"}}, "kmsg 1\nown 1\n"},
		"allowed to read":    {[]specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: pointer(int64(1)), Minor: pointer(int64(11)), Access: "r"}}, "kmsg 0\nown 0\n"},
		"allowed to write":   {[]specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: pointer(int64(1)), Minor: pointer(int64(11)), Access: "w"}}, "kmsg 1\nown 1\n"},
		"all devices":        {[]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, "kmsg 0\nown 0\n"},
		"all but one":        {[]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}, {Type: "c", Major: pointer(int64(1)), Minor: pointer(int64(11)), Access: "rw"}}, "kmsg 1\nown 1\n"},
		"all of one major":   {[]specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: pointer(int64(1)), Access: "rwm"}}, "kmsg 0\nown 0\n"},
		"no rules whatever":  {nil, "kmsg 1\nown 1\n"},
		"another kind of it": {[]specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "b", Major: pointer(int64(1)), Minor: pointer(int64(11)), Access: "rwm"}}, "kmsg 1\nown 1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t).shell(script)
			c.Spec.Root.Readonly = false
			c.Spec.Linux.Devices = []specs.LinuxDevice{kmsg}
			c.Spec.Linux.Resources.Devices = test.rules
			mknod := []string{"CAP_MKNOD", "CAP_SYSLOG"}
			c.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: mknod, Effective: mknod, Permitted: mknod}
			out := c.output()
			if !strings.HasPrefix(out, "null 0\nzero 0\nfull 0\nrandom 0\nurandom 0\ntty 1\nptmx 0\n") {
				t.Errorf("the default devices: %q", out)
			}
			if !strings.HasSuffix(out, test.want) {
				t.Errorf("output %q, want %q at its end", out, test.want)
			}
		})
	}
}

// TestDevicesAreKept: what exec and update do leaves the rules as they are, unless it is about them. Who uses a device all
// the while doesn't notice.
func TestDevicesAreKept(t *testing.T) {
	c := newContainer(t).shell("while (: < /dev/null) 2>/dev/null; do :; done")
	kmsg := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: pointer(int64(1)), Minor: pointer(int64(11)), Access: "r"}
	c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11, FileMode: pointer(os.FileMode(0o666))}}
	c.Spec.Linux.Resources.Devices = append(c.Spec.Linux.Resources.Devices, kmsg)
	capabilities := c.Spec.Process.Capabilities
	for _, set := range []*[]string{&capabilities.Bounding, &capabilities.Effective, &capabilities.Permitted} {
		*set = append(*set, "CAP_SYSLOG")
	}
	c.start()
	check := func(want string) {
		t.Helper()
		r := c.verb("exec", c.ID, "sh", "-c", "(: < /dev/kmsg) 2>/dev/null && echo read; (: > /dev/kmsg) 2>/dev/null && echo written; (: > /dev/null) && echo null")
		wantEqual(t, r.Stdout, want)
	}
	update := func(devices ...specs.LinuxDeviceCgroup) {
		t.Helper()
		content, err := json.Marshal(specs.LinuxResources{Devices: devices})
		if err != nil {
			t.Fatal(err)
		}
		command := c.command("update", "-r", "-", c.ID)
		command.Stdin = strings.NewReader(string(content))
		if r := testenv.Execute(t, command); r.Status != 0 {
			t.Fatalf("%+v", r)
		}
	}
	check("read\nnull\n")
	c.must("update", "--pids-limit", "100", c.ID)
	check("read\nnull\n")
	written := kmsg
	written.Access = "rw"
	for range 10 {
		update(specs.LinuxDeviceCgroup{Access: "rwm"})
		check("null\n")
		update(specs.LinuxDeviceCgroup{Access: "rwm"}, written)
		check("read\nwritten\nnull\n")
		update(specs.LinuxDeviceCgroup{Access: "rwm"}, kmsg)
		check("read\nnull\n")
	}
	c.wantStatus("running")
}

func TestCgroupsPath(t *testing.T) {
	parent := testenv.CgroupParent
	for _, test := range []struct{ path, want string }{
		{parent + "/deep/er", parent + "/deep/er\n"},
		{"/../.." + parent + "/up", parent + "/up\n"},
		{"berth-test-relative", "/berth-test-relative\n"},
		{"", ""},
	} {
		c := newContainer(t).shell("cat /proc/self/cgroup")
		c.Spec.Linux.CgroupsPath = test.path
		if test.path == "" {
			test.want = "/" + c.ID + "\n"
		}
		out := c.output()
		for line := range strings.Lines(out) {
			if unmounted := strings.HasSuffix(line, ":/\n"); !unmounted && !strings.HasSuffix(line, test.want) {
				t.Errorf("%s: %q, want %q", test.path, line, test.want)
			}
		}
		left, _ := filepath.Glob("/sys/fs/cgroup/*" + strings.TrimSpace(test.want))
		if len(left) > 0 {
			t.Errorf("%s: %v is left", test.path, left)
		}
	}
}

func TestCgroupNamespace(t *testing.T) {
	c := newContainer(t).shell("cut -d: -f3 /proc/self/cgroup | sort -u")
	c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	if onV2(t) {
		c.Spec.Linux.Namespaces = testenv.ExampleSpec(t).Linux.Namespaces
	}
	if out := c.output(); out != "/\n" {
		t.Errorf("the container sees itself in %q", out)
	}
}

func TestExecJoinsTheCgroup(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.start()
	first, second := c.must("exec", c.ID, "cat", "/proc/1/cgroup"), c.must("exec", c.ID, "cat", "/proc/self/cgroup")
	if first != second || !strings.Contains(first+c.Spec.Linux.CgroupsPath, c.ID) {
		t.Errorf("the first process is in %q, another in %q", first, second)
	}
}

func TestOccupiedCgroup(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.start()
	other := newContainer(t, "true")
	other.Spec.Linux.CgroupsPath = c.Spec.Linux.CgroupsPath
	other.refused("is not empty")
	var state struct{ Status string }
	if err := json.Unmarshal([]byte(c.must("state", c.ID)), &state); err != nil || state.Status != "running" {
		t.Errorf("the first container is %q, %v", state.Status, err)
	}
}

func TestResourcesRefuse(t *testing.T) {
	for want, change := range map[string]func(*specs.LinuxResources){
		"linux.resources.cpu.cpus":           func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Cpus: "4000"} },
		"linux.resources.cpu.shares: 262145": func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Shares: pointer(uint64(262145))} },
		"linux.resources.hugepageLimits":     func(r *specs.LinuxResources) { r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "3MB"}} },
		"linux.resources.rdma": func(r *specs.LinuxResources) {
			r.Rdma = map[string]specs.LinuxRdma{"none0": {HcaHandles: pointer(uint32(1))}}
		},
		"linux.resources.devices[2].minor": func(r *specs.LinuxResources) {
			one := func(allow bool, minor *int64) specs.LinuxDeviceCgroup {
				return specs.LinuxDeviceCgroup{Allow: allow, Type: "b", Major: pointer(int64(8)), Minor: minor, Access: "w"}
			}
			r.Devices = append(r.Devices, one(true, nil), one(false, pointer(int64(1))))
		},
		"linux.resources.devices[1].access":      func(r *specs.LinuxResources) { r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Access: "q"}) },
		`linux.resources.unified of "../x.high"`: func(r *specs.LinuxResources) { r.Unified = map[string]string{"../x.high": "1"} },
	} {
		c := newContainer(t, "true")
		change(c.Spec.Linux.Resources)
		if onV2(t) && strings.Contains(want, "shares") {
			continue // they are turned into a weight there
		}
		if strings.Contains(want, "unified") && !onV2(t) {
			want = "linux.resources.unified can't be honoured"
		}
		c.refused(want)
	}
}

// TestKilledWithItsCgroup: without a pid namespace nobody but the runtime kills what the first process leaves.
func TestKilledWithItsCgroup(t *testing.T) {
	c := newContainer(t).shell("sleep 4711 & sleep 4711 & exec sleep 4711")
	c.Spec.Linux.Namespaces = c.Spec.Linux.Namespaces[1:]
	if c.Spec.Linux.Namespaces[0].Type == specs.PIDNamespace {
		t.Fatal("the pid namespace is not the first")
	}
	c.start()
	var pids []int
	testenv.WaitFor(t, "three processes", func() bool {
		if err := json.Unmarshal([]byte(c.must("ps", "--format", "json", c.ID)), &pids); err != nil {
			t.Fatal(err)
		}
		return len(pids) == 3
	})
	c.must("delete", "--force", c.ID)
	for _, pid := range pids {
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(comm), "4711") {
			t.Errorf("process %d lives on", pid)
		}
	}
	c.gone()
}

// TestUnified sets files by their names, behind the fields that mean the same.
func TestUnified(t *testing.T) {
	if !onV2(t) {
		t.Skip("needs cgroup v2")
	}
	c := newContainer(t, "sleep", "1000")
	c.Spec.Linux.Resources = &specs.LinuxResources{
		Pids:    &specs.LinuxPids{Limit: pointer(int64(5))},
		Unified: map[string]string{"pids.max": "9", "memory.high": "33554432", "cpu.weight": "77", "cgroup.max.depth": "3", "memory.oom.group": "1"},
	}
	c.start()
	files := []limited{{v2: "pids.max", wantV2: "9"}, {v2: "memory.high", wantV2: "33554432"}, {v2: "cpu.weight", wantV2: "77"}, {v2: "cgroup.max.depth", wantV2: "3"}, {v2: "memory.oom.group", wantV2: "1"}}
	c.checkLimits(files)
	command := c.command("update", "-r", "-", c.ID)
	command.Stdin = strings.NewReader(`{"unified": {"memory.high": "max"}}`)
	if r := testenv.Execute(t, command); r.Status != 0 {
		t.Errorf("%+v", r)
	}
	files[1].wantV2 = "max"
	c.checkLimits(files)
	for file, want := range map[string]string{"memory.nothing": "memory.nothing", "nothing.max": "the nothing controller is not available", "memory.max": "invalid argument"} {
		bad := newContainer(t, "true")
		bad.Spec.Linux.Resources.Unified = map[string]string{file: "x"}
		bad.refused(want)
	}
}

// TestDevicesAndProcessorsAsTheyAreWritten: other runtimes take these, and people have them.
func TestDevicesAndProcessorsAsTheyAreWritten(t *testing.T) {
	c := newContainer(t).shell("mknod /tmp/tun c 10 200 && { head -c1 /tmp/tun 2>&1; true; }")
	c.Spec.Process.Capabilities.Bounding = append(c.Spec.Process.Capabilities.Bounding, "CAP_MKNOD")
	c.Spec.Process.Capabilities.Effective = append(c.Spec.Process.Capabilities.Effective, "CAP_MKNOD")
	c.Spec.Process.Capabilities.Permitted = append(c.Spec.Process.Capabilities.Permitted, "CAP_MKNOD")
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"dev"}})
	c.Spec.Linux.Resources = &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Type: "a", Major: pointer(int64(1)), Minor: pointer(int64(2)), Access: "rwma"}, {Allow: true, Type: "c", Major: pointer(int64(10)), Minor: pointer(int64(229)), Access: "rwa"}},
		CPU:     &specs.LinuxCPU{Cpus: "0-1:1/2", Mems: "0"},
	}
	if out := c.output(); strings.Contains(out, "not permitted") || out == "" {
		t.Errorf("the device tun of a container: %q", out)
	}
}
