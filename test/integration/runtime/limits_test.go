package runtime_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

func TestMoreResources(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	memory := &specs.LinuxMemory{Limit: pointer(int64(64 << 20)), Swap: pointer(int64(96 << 20))}
	if !onV2(t) {
		memory.KernelTCP, memory.Swappiness, memory.DisableOOMKiller = pointer(int64(8<<20)), pointer(uint64(7)), pointer(true)
	}
	c.Spec.Linux.Resources = &specs.LinuxResources{
		Memory: memory,
		CPU:    &specs.LinuxCPU{Quota: pointer(int64(20000)), Period: pointer(uint64(50000)), Burst: pointer(uint64(10000))},
	}
	c.start()
	c.checkLimits([]limited{
		{"memory/memory.memsw.limit_in_bytes", "memory.swap.max", "100663296", "33554432"},
		{"memory/memory.kmem.tcp.limit_in_bytes", "", "8388608", ""},
		{"memory/memory.swappiness", "", "7", ""},
		{"cpu/cpu.cfs_burst_us", "cpu.max.burst", "10000", "10000"},
	})
	if !onV2(t) && !strings.Contains(c.cgroupFile("memory/memory.oom_control", ""), "oom_kill_disable 1") {
		t.Error("the OOM killer is on")
	}
}

// TestSwapOfAnUpdate: what counts is memory and swap together, until an update says otherwise.
func TestSwapOfAnUpdate(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: pointer(int64(64 << 20)), Swap: pointer(int64(96 << 20))}
	c.start()
	const memory, both = "memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes"
	for _, test := range []struct {
		flags              []string
		memory, both, swap string
	}{
		{nil, "67108864", "100663296", "33554432"},
		{[]string{"--memory", "80m"}, "83886080", "100663296", "16777216"},
		{[]string{"--memory-swap", "112m"}, "83886080", "117440512", "33554432"},
		{[]string{"--memory", "64m", "--memory-swap", "64m"}, "67108864", "67108864", "0"},
	} {
		if test.flags != nil {
			c.must(append(append([]string{"update"}, test.flags...), c.ID)...)
		}
		c.checkLimits([]limited{{memory, "memory.max", test.memory, test.memory}, {both, "memory.swap.max", test.both, test.swap}})
	}
	if r := c.verb("update", "--memory", "128m", c.ID); r.Status == 0 {
		t.Errorf("more memory than memory and swap: %+v", r)
	}
}

// TestIdle: shares beside it are kept for later, and it can be ended together with new ones.
func TestIdle(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.Spec.Linux.Resources.CPU = &specs.LinuxCPU{Idle: pointer(int64(1)), Shares: pointer(uint64(512))}
	c.start()
	c.checkLimits([]limited{{"cpu/cpu.idle", "cpu.idle", "1", "1"}})
	command := c.command("update", "-r", "-", c.ID)
	command.Stdin = strings.NewReader(`{"cpu": {"idle": 0, "shares": 2048}}`)
	if r := testenv.Execute(t, command); r.Status != 0 {
		t.Errorf("%+v", r)
	}
	c.checkLimits([]limited{{"cpu/cpu.idle", "cpu.idle", "0", "0"}, {"cpu/cpu.shares", "cpu.weight", "2048", "174"}})
}

// TestProcessorsAsSeen looks at the limits of processors and memory nodes from inside, where there are several.
func TestProcessorsAsSeen(t *testing.T) {
	c := newContainer(t).shell("grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status | cut -f2; nproc")
	c.Spec.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "1", Mems: "0"}
	wantEqual(t, c.output(), "1\n0\n1\n")
}

// TestCheckBeforeUpdate: a limit below what is used would end the container, and is refused if that is asked for.
func TestCheckBeforeUpdate(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.start()
	command := c.command("update", "-r", "-", c.ID)
	command.Stdin = strings.NewReader(`{"memory": {"limit": 4096, "checkBeforeUpdate": true}}`)
	if r := testenv.Execute(t, command); r.Status != 1 || !strings.Contains(r.Stderr, "memory") {
		t.Errorf("%+v", r)
	}
	c.wantStatus("running")
}

// blockDevice returns the numbers of a whole disk, or skips.
func blockDevice(t *testing.T) (major, minor int64) {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/partitions")) {
		var blocks int64
		var name string
		if n, _ := fmt.Sscan(line, &major, &minor, &blocks, &name); n == 4 && minor == 0 {
			return major, minor
		}
	}
	t.Skip("there is no disk")
	return 0, 0
}

func TestThrottledDevices(t *testing.T) {
	major, minor := blockDevice(t)
	limit := func(rate uint64) []specs.LinuxThrottleDevice {
		d := specs.LinuxThrottleDevice{Rate: rate}
		d.Major, d.Minor = major, minor
		return []specs.LinuxThrottleDevice{d}
	}
	c := newContainer(t, "sleep", "1000")
	c.Spec.Linux.Resources = &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
		ThrottleReadBpsDevice: limit(1 << 20), ThrottleWriteBpsDevice: limit(2 << 20), ThrottleReadIOPSDevice: limit(300), ThrottleWriteIOPSDevice: limit(400),
	}}
	c.start()
	device := fmt.Sprintf("%d:%d ", major, minor)
	c.checkLimits([]limited{
		{"blkio/blkio.throttle.read_bps_device", "io.max", device + "1048576", device + "rbps=1048576 wbps=2097152 riops=300 wiops=400"},
		{"blkio/blkio.throttle.write_bps_device", "", device + "2097152", ""},
		{"blkio/blkio.throttle.read_iops_device", "", device + "300", ""},
		{"blkio/blkio.throttle.write_iops_device", "", device + "400", ""},
	})
}

// TestResourcesOfOtherMachines: what the kernel or its disks can't do is an error that names the field.
func TestResourcesOfOtherMachines(t *testing.T) {
	wantedWeight := specs.LinuxWeightDevice{LeafWeight: pointer(uint16(300))}
	wantedWeight.Major = 7
	for want, change := range map[string]func(*specs.LinuxResources){
		"linux.resources.network.classID": func(r *specs.LinuxResources) { r.Network = &specs.LinuxNetwork{ClassID: pointer(uint32(5))} },
		"linux.resources.network.priorities": func(r *specs.LinuxResources) {
			r.Network = &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 3}}}
		},
		"linux.resources.blockIO.leafWeight": func(r *specs.LinuxResources) {
			r.BlockIO = &specs.LinuxBlockIO{LeafWeight: pointer(uint16(300))}
		},
		"linux.resources.blockIO.weightDevice": func(r *specs.LinuxResources) {
			r.BlockIO = &specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{wantedWeight}}
		},
	} {
		c := newContainer(t, "true")
		change(c.Spec.Linux.Resources)
		if r := c.run(); r.Status == 0 {
			t.Logf("this machine has %s", want)
			continue
		}
		if onV2(t) && strings.Contains(want, "network") {
			want = "linux.resources.network"
		}
		c.refused(want)
	}
}
