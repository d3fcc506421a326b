package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/kernelfile"
)

// create makes a cgroup on this host, which goes away with the test.
func create(t *testing.T, resources *specs.LinuxResources) Cgroup {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes cgroups")
	}
	name := fmt.Sprintf("/berth-test-%d-%s", os.Getpid(), strings.ToLower(filepath.Base(t.Name())))
	group, err := Create(Config{ID: "x", Path: name, Resources: resources})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(group.Kill(), group.Delete(), group.Close()); err != nil {
			t.Errorf("cannot clean up: %v", err)
		}
	})
	return group
}

func unified(t *testing.T) bool {
	t.Helper()
	unified, err := IsUnified()
	if err != nil {
		t.Skip(err)
	}
	return unified
}

// value reads a file of the cgroup: the first on cgroup v1, where "cpu/cpu.shares" names the controller too, the
// second on v2.
func value(t *testing.T, group Cgroup, v1, v2 string) string {
	t.Helper()
	dir, file := group.Paths()[""], v2
	if !unified(t) {
		var controller string
		controller, file, _ = strings.Cut(v1, "/")
		dir = group.Paths()[controller]
	}
	content, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

// limitFile is a file of a limit on both versions. Empty: this version has none.
type limitFile struct{ v1, v2 string }

func expect(t *testing.T, group Cgroup, in limitFile, wantV1, wantV2 string) {
	t.Helper()
	want, file := wantV1, in.v1
	if unified(t) {
		want, file = wantV2, in.v2
	}
	if file == "" {
		return
	}
	if got := value(t, group, in.v1, in.v2); got != want {
		t.Errorf("%s is %q, want %q", file, got, want)
	}
}

func TestLimits(t *testing.T) {
	group := create(t, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: pointer(int64(64 << 20)), Reservation: pointer(int64(32 << 20))},
		CPU: &specs.LinuxCPU{
			Shares: pointer(uint64(2048)), Quota: pointer(int64(50000)), Period: pointer(uint64(100000)), Cpus: "0", Mems: "0",
		},
		Pids: &specs.LinuxPids{Limit: pointer(int64(50))},
	})
	expect(t, group, limitFile{"memory/memory.limit_in_bytes", "memory.max"}, "67108864", "67108864")
	expect(t, group, limitFile{"memory/memory.soft_limit_in_bytes", "memory.low"}, "33554432", "33554432")
	expect(t, group, limitFile{"cpu/cpu.shares", "cpu.weight"}, "2048", "174")
	expect(t, group, limitFile{"cpu/cpu.cfs_quota_us", "cpu.max"}, "50000", "50000 100000")
	expect(t, group, limitFile{"cpuset/cpuset.cpus", "cpuset.cpus"}, "0", "0")
	expect(t, group, limitFile{"pids/pids.max", "pids.max"}, "50", "50")

	err := group.Update(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: pointer(int64(128 << 20))},
		CPU:    &specs.LinuxCPU{Quota: pointer(int64(70000)), Burst: pointer(uint64(60000))},
		Pids:   &specs.LinuxPids{Limit: pointer(int64(-1))},
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, group, limitFile{"memory/memory.limit_in_bytes", "memory.max"}, "134217728", "134217728")
	expect(t, group, limitFile{"cpu/cpu.cfs_quota_us", "cpu.max"}, "70000", "70000 100000")
	expect(t, group, limitFile{"cpu/cpu.cfs_burst_us", "cpu.max.burst"}, "60000", "60000")
	expect(t, group, limitFile{"cpu/cpu.shares", "cpu.weight"}, "2048", "174")
	expect(t, group, limitFile{"pids/pids.max", "pids.max"}, "max", "max")

	if err := group.Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: pointer(int64(50000)), Burst: pointer(uint64(10000))}}); err != nil {
		t.Errorf("cannot lower a quota below the burst: %v", err)
	}
	if err := group.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: pointer(int64(-1))}}); err != nil {
		t.Error(err)
	}
	expect(t, group, limitFile{"", "memory.max"}, "", "max")
}

// below makes a cgroup of a hierarchy of v1, which goes away with the test.
func below(t *testing.T, controller, file, value string) string {
	t.Helper()
	if os.Geteuid() != 0 || unified(t) {
		t.Skip("needs root and cgroup v1")
	}
	name := fmt.Sprintf("/berth-test-%d-%s", os.Getpid(), strings.ToLower(t.Name()))
	dir := filepath.Join(mountRoot, controller, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dirs, _ := filepath.Glob(filepath.Join(mountRoot, "*", name))
		for _, dir := range dirs {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	if file != "" {
		if err := kernelfile.Write(filepath.Join(dir, file), value); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

func createBelow(t *testing.T, parent string, resources *specs.LinuxResources) Cgroup {
	t.Helper()
	group, err := Create(Config{ID: "x", Path: parent + "/inner", Resources: resources})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(group.Delete(), group.Close()); err != nil {
			t.Error(err)
		}
	})
	return group
}

// TestPeriodBeforeQuota: half of a processor's time in another period, below a cgroup that has no more than that. With
// the new period alone it would be too much, and with the new time alone it would be for the period before.
func TestPeriodBeforeQuota(t *testing.T) {
	parent := below(t, "cpu", "cpu.cfs_quota_us", "50000")
	half := func(quota int64, period uint64) *specs.LinuxResources {
		return &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}
	}
	group := createBelow(t, parent, half(50000, 100000))
	for _, period := range []uint64{50000, 100000} {
		if err := group.Update(half(int64(period/2), period)); err != nil {
			t.Fatal(err)
		}
		expect(t, group, limitFile{"cpu/cpu.cfs_period_us", ""}, fmt.Sprint(period), "")
	}
}

// TestEmptyCpuset: v1 gives a cgroup no processors by itself, and not everybody who makes one does.
func TestEmptyCpuset(t *testing.T) {
	group := createBelow(t, below(t, "cpuset", "", ""), nil)
	top, err := os.ReadFile(filepath.Join(mountRoot, "cpuset/cpuset.cpus"))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, group, limitFile{"cpuset/cpuset.cpus", ""}, strings.TrimSpace(string(top)), "")
}

// TestZeros: what callers send for everything that they leave at its default.
func TestZeros(t *testing.T) {
	create(t, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{
			Limit: pointer(int64(0)), Reservation: pointer(int64(0)), Swap: pointer(int64(0)), Kernel: pointer(int64(0)), //nolint:staticcheck // deprecated, not gone
			Swappiness: pointer(^uint64(0)), DisableOOMKiller: pointer(false),
		},
		CPU: &specs.LinuxCPU{
			Shares: pointer(uint64(0)), Quota: pointer(int64(0)), Period: pointer(uint64(0)), RealtimePeriod: pointer(uint64(0)),
			RealtimeRuntime: pointer(int64(0)),
		},
		BlockIO: &specs.LinuxBlockIO{Weight: pointer(uint16(0)), LeafWeight: pointer(uint16(0))},
		Network: &specs.LinuxNetwork{ClassID: pointer(uint32(0))},
	})
}

func TestPidsLimitOfZero(t *testing.T) {
	group := create(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: pointer(int64(0))}})
	expect(t, group, limitFile{"pids/pids.max", "pids.max"}, "1", "1")
}

func TestUnified(t *testing.T) {
	resources := &specs.LinuxResources{Unified: map[string]string{"memory.high": "50000000", "cpu.max": "30000 60000"}}
	if !unified(t) {
		_, err := Create(Config{ID: "x", Path: "/berth-test-unified", Resources: resources})
		if !errors.Is(err, errdefs.ErrUnimplemented) || !strings.Contains(err.Error(), "linux.resources.unified") {
			t.Errorf("error %v on cgroup v1", err)
		}
		if _, err := os.Stat(filepath.Join(mountRoot, "memory", "berth-test-unified")); err == nil {
			t.Error("the cgroup of a failed Create is still there")
		}
		return
	}
	group := create(t, resources)
	expect(t, group, limitFile{"", "memory.high"}, "", "49999872")
	expect(t, group, limitFile{"", "cpu.max"}, "", "30000 60000")
	for _, name := range []string{"../x.y", "nosuch.file", "memory"} {
		if err := group.Update(&specs.LinuxResources{Unified: map[string]string{name: "1"}}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		resources *specs.LinuxResources
		v1, v2    string // parts of the error; empty if it works there
	}{
		"swap without memory": {
			&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: pointer(int64(1 << 30))}},
			"linux.resources.memory", "linux.resources.memory.swap: it counts memory too",
		},
		"swap below memory": {
			&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: pointer(int64(2 << 30)), Swap: pointer(int64(1 << 30))}},
			"linux.resources.memory", "linux.resources.memory.swap: 1073741824 bytes",
		},
		"swappiness":    {&specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: pointer(uint64(7))}}, "", "linux.resources.memory.swappiness"},
		"burst":         {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: pointer(int64(10000)), Burst: pointer(uint64(20000))}}, "linux.resources.cpu.burst", "linux.resources.cpu"},
		"no such cpu":   {&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}}, "linux.resources.cpu.cpus", "linux.resources.cpu.cpus"},
		"no such page":  {&specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}}, "linux.resources.hugepageLimits", "linux.resources.hugepageLimits"},
		"no such disk":  {&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 5}}}}, "linux.resources.blockIO", "linux.resources.blockIO"},
		"a device rule": {&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "q"}}}, "linux.resources.devices[0].type", "linux.resources.devices[0].type"},
	} {
		t.Run(name, func(t *testing.T) {
			want := test.v1
			if unified(t) {
				want = test.v2
			}
			if want == "" {
				create(t, test.resources)
				return
			}
			path := fmt.Sprintf("/berth-test-%d/refused", os.Getpid())
			group, err := Create(Config{ID: "x", Path: path, Resources: test.resources})
			if err == nil {
				_ = group.Delete()
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
			left, err := filepath.Glob(mountRoot + "/*" + filepath.Dir(path))
			if err != nil || len(left) > 0 {
				t.Errorf("%v is left, %v", left, err)
			}
		})
	}
}

// member starts a process in the cgroup that prints a line again and again until it is killed.
func member(t *testing.T, group Cgroup) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	command := exec.Command("sh", "-c", "read go; sleep 1000 & while echo tick; do :; done")
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	if err := group.Add(command.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := input.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	return command, bufio.NewReader(output)
}

func TestFreezeAndKill(t *testing.T) {
	group := create(t, nil)
	command, output := member(t, group)
	if _, err := output.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := group.Freeze(); err != nil {
		t.Fatal(err)
	}
	if frozen, err := group.Frozen(); !frozen || err != nil {
		t.Errorf("frozen is %v, %v after Freeze", frozen, err)
	}
	if err := group.Thaw(); err != nil {
		t.Fatal(err)
	}
	if frozen, err := group.Frozen(); frozen || err != nil {
		t.Errorf("frozen is %v, %v after Thaw", frozen, err)
	}
	pids, err := group.Pids()
	if err != nil || !slices.Contains(pids, command.Process.Pid) || len(pids) < 2 {
		t.Errorf("pids %v, %v: want %d and its child", pids, err, command.Process.Pid)
	}
	if err := group.Freeze(); err != nil { // a kill has to reach frozen processes too
		t.Fatal(err)
	}
	if err := group.Kill(); err != nil {
		t.Fatal(err)
	}
	if unified(t) {
		if err := group.Thaw(); err != nil {
			t.Fatal(err)
		}
	}
	if err := command.Wait(); err == nil || command.ProcessState.ExitCode() != -1 {
		t.Errorf("the process has ended with %v", command.ProcessState)
	}
	if err := group.Delete(); err != nil {
		t.Error(err)
	}
	if err := group.Delete(); err != nil {
		t.Errorf("the second Delete: %v", err)
	}
}

func TestJoinFiles(t *testing.T) {
	group := create(t, nil)
	command := exec.Command("sh", append([]string{"-c", `for file; do echo 0 > "$file" || exit 1; done; exec cat /proc/self/cgroup`, "sh"}, group.JoinFiles()...)...)
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if got, want := strings.Count(string(output), "/berth-test-"), len(group.JoinFiles()); got != want {
		t.Errorf("in %d of %d hierarchies:\n%s", got, want, output)
	}
}

func TestLoadAndRefuseOccupied(t *testing.T) {
	group := create(t, nil)
	_, output := member(t, group)
	if _, err := output.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	again, err := Load(group.Paths())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if pids, err := again.Pids(); err != nil || len(pids) == 0 {
		t.Errorf("pids %v, %v", pids, err)
	}
	name := "/" + filepath.Base(group.Paths()[anyKey(group.Paths())])
	if _, err := Create(Config{ID: "x", Path: name}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("error %v for a cgroup with processes", err)
	}
	if pids, err := again.Pids(); err != nil || len(pids) == 0 {
		t.Errorf("pids %v, %v after a refused Create", pids, err)
	}
}

func anyKey(paths map[string]string) string {
	for key := range paths {
		return key
	}
	return ""
}

func TestPathStaysInTheHierarchy(t *testing.T) {
	h := hierarchy{mount: "/sys/fs/cgroup/x", own: "/own", controllers: []string{"x"}}
	for path, want := range map[string]string{
		"":              "/sys/fs/cgroup/x/own/id",
		"/a/b":          "/sys/fs/cgroup/x/a/b",
		"a/b":           "/sys/fs/cgroup/x/own/a/b",
		"/../../../etc": "/sys/fs/cgroup/x/etc",
		"../../../etc":  "/sys/fs/cgroup/x/own/etc",
	} {
		if got := h.path(Config{ID: "id", Path: path}); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

func TestParseOwn(t *testing.T) {
	found := parseOwn("12:cpu,cpuacct:/a\n1:name=systemd:/b\n3:name=elogind:/x\n26::/\n0::/c:d\n\nbroken\n")
	var got []string
	for _, h := range found {
		got = append(got, strings.Join(h.controllers, ",")+h.own)
	}
	if want := []string{"cpu,cpuacct/a", "name=systemd/b", "/c:d"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
