package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/kernelfile"
)

// v2Limit is what one section of linux.resources comes to.
type v2Limit struct {
	field, controller string
	files             []setting
}

// setting is a value for one file of the cgroup. An optional one that the kernel lacks is left out. One that is refused
// may be tried again behind the next, on which it depends.
type setting struct {
	file, value     string
	optional, again bool
}

// limit sets what resources asks for.
func (c *v2) limit(resources *specs.LinuxResources, create bool) error {
	if resources == nil {
		resources = &specs.LinuxResources{}
	}
	if create || len(resources.Devices) > 0 {
		if err := c.limitDevices(resources.Devices); err != nil {
			return err
		}
	}
	limits, err := c.limits(resources)
	if err != nil || len(limits) == 0 {
		return err
	}
	available, err := controllers(c.dir)
	if err != nil {
		return err
	}
	for _, limit := range limits {
		if limit.controller != "" && !slices.Contains(available, limit.controller) {
			return unsupported(limit.field, fmt.Sprintf("the %s controller is not available in %s", limit.controller, c.dir))
		}
		if err := c.set(limit); err != nil {
			return fmt.Errorf("cannot set %s: %w", limit.field, err)
		}
	}
	return nil
}

func (c *v2) set(limit v2Limit) error {
	for _, s := range limit.files {
		err := kernelfile.Write(filepath.Join(c.dir, s.file), s.value)
		switch {
		case s.optional && errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, fs.ErrNotExist):
			return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("the host's kernel has no %s", s.file))
		case err != nil:
			return err
		}
	}
	return nil
}

// limits translates the sections in use.
func (c *v2) limits(resources *specs.LinuxResources) ([]v2Limit, error) {
	var limits []v2Limit
	if resources.Memory != nil {
		limit, err := c.memoryLimit(resources.Memory)
		if err != nil {
			return nil, err
		}
		limits = append(limits, limit)
	}
	if resources.CPU != nil {
		more, err := c.cpuLimits(resources.CPU)
		if err != nil {
			return nil, err
		}
		limits = append(limits, more...)
	}
	if resources.BlockIO != nil {
		limit, err := c.blockIOLimit(resources.BlockIO)
		if err != nil {
			return nil, err
		}
		limits = append(limits, limit)
	}
	if pids := resources.Pids; pids != nil && pids.Limit != nil {
		limits = append(limits, v2Limit{
			field: "linux.resources.pids.limit", controller: "pids",
			files: []setting{{file: "pids.max", value: pidsMax(*pids.Limit)}},
		})
	}
	for _, page := range resources.HugepageLimits {
		limits = append(limits, hugepageLimit(page))
	}
	for device, rdma := range resources.Rdma {
		limits = append(limits, rdmaLimit(device, rdma))
	}
	if network := resources.Network; network != nil && (network.ClassID != nil && *network.ClassID != 0 || len(network.Priorities) > 0) {
		return nil, unsupported("linux.resources.network", "this host has cgroup v2")
	}
	unified, err := unifiedLimits(resources.Unified)
	return append(limits, unified...), err // last: it may refine what the others have set
}

// memoryLimit sets the memory limits. Zero means unset, as on v1. v1's swap counts memory too, that of v2 does not.
func (c *v2) memoryLimit(memory *specs.LinuxMemory) (v2Limit, error) {
	const field = "linux.resources.memory"
	limit := v2Limit{field: field, controller: "memory"}
	if err := refuseMemoryV1(memory); err != nil {
		return limit, err
	}
	value := func(v *int64) int64 {
		if v == nil {
			return 0
		}
		return *v
	}
	most, swap := value(memory.Limit), value(memory.Swap)
	present := most
	if most == 0 && swap > 0 {
		// An update may leave the limit of memory as it is.
		if n, err := readNumber(filepath.Join(c.dir, "memory.max")); err == nil {
			present = n
		}
	}
	if most > 0 && memory.CheckBeforeUpdate != nil && *memory.CheckBeforeUpdate {
		if err := checkUsage(filepath.Join(c.dir, "memory.current"), most); err != nil {
			return limit, err
		}
	}
	switch {
	case swap == 0 && most == unlimited:
		limit.files = append(limit.files, setting{file: "memory.swap.max", value: "max", optional: true})
	case swap == unlimited:
		limit.files = append(limit.files, setting{file: "memory.swap.max", value: "max", optional: true})
	case swap > 0 && present <= 0:
		return limit, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("%s.swap: it counts memory too, so that it needs a limit of memory beside it", field))
	case swap > 0 && swap < present:
		return limit, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("%s.swap: %d bytes of memory and swap are less than the limit of memory, %d", field, swap, present))
	case swap > 0:
		limit.files = append(limit.files, setting{file: "memory.swap.max", value: strconv.FormatInt(swap-present, 10), optional: swap == present})
	}
	if most != 0 {
		limit.files = append(limit.files, setting{file: "memory.max", value: limitText(most)})
	}
	if low := value(memory.Reservation); low > 0 {
		limit.files = append(limit.files, setting{file: "memory.low", value: strconv.FormatInt(low, 10)})
	} else if low == unlimited {
		limit.files = append(limit.files, setting{file: "memory.low", value: "max"})
	}
	return limit, nil
}

// MemoryAndSwap is the limit of both together in a cgroup of v2, if there is one of each.
func MemoryAndSwap(paths map[string]string) (limit int64, limited bool) {
	dir, ok := paths[""]
	if !ok || len(paths) > 1 {
		return 0, false
	}
	memory, err := readNumber(filepath.Join(dir, "memory.max"))
	swap, swapErr := readNumber(filepath.Join(dir, "memory.swap.max"))
	if err != nil || swapErr != nil || memory == unlimited || swap == unlimited {
		return 0, false
	}
	return memory + swap, true
}

// refuseMemoryV1 refuses what cgroup v2 has nothing for.
func refuseMemoryV1(memory *specs.LinuxMemory) error {
	for _, v1only := range []struct {
		field string
		set   bool
	}{
		{"kernel", memory.Kernel != nil && *memory.Kernel > 0}, //nolint:staticcheck // deprecated, not gone
		{"kernelTCP", memory.KernelTCP != nil && *memory.KernelTCP > 0},
		{"swappiness", memory.Swappiness != nil && int64(*memory.Swappiness) != unlimited},
		{"disableOOMKiller", memory.DisableOOMKiller != nil && *memory.DisableOOMKiller},
	} {
		if v1only.set {
			return unsupported("linux.resources.memory."+v1only.field, "this host has cgroup v2")
		}
	}
	return nil
}

// cpuLimits sets processor time and processors. Zero means unset, as on v1.
func (c *v2) cpuLimits(cpu *specs.LinuxCPU) ([]v2Limit, error) {
	if cpu.RealtimePeriod != nil && *cpu.RealtimePeriod != 0 || cpu.RealtimeRuntime != nil && *cpu.RealtimeRuntime != 0 {
		return nil, unsupported("linux.resources.cpu.realtimeRuntime", "this host has cgroup v2")
	}
	limit := v2Limit{field: "linux.resources.cpu", controller: "cpu"}
	idle, weight := setting{file: "cpu.idle", value: format(cpu.Idle)}, setting{file: "cpu.weight"}
	if cpu.Shares != nil && *cpu.Shares != 0 {
		weight.value = strconv.Itoa(cpuWeight(*cpu.Shares))
	}
	if idle.value == "1" { // there is no weight for the idle: it comes before, or behind what ends that
		idle, weight = weight, idle
	}
	limit.files = given(idle, weight)
	if cpu.Burst != nil {
		// A burst may not exceed the quota: the old one could forbid the new quota, and the old quota the new burst.
		limit.files = append(limit.files, setting{file: "cpu.max.burst", value: "0"})
	}
	quota, period := cpu.Quota != nil && *cpu.Quota != 0, cpu.Period != nil && *cpu.Period != 0
	if quota || period {
		text, err := c.cpuMax(cpu, quota, period)
		if err != nil {
			return nil, err
		}
		limit.files = append(limit.files, setting{file: "cpu.max", value: text})
	}
	if cpu.Burst != nil {
		limit.files = append(limit.files, setting{file: "cpu.max.burst", value: format(cpu.Burst)})
	}
	var limits []v2Limit
	if len(limit.files) > 0 {
		limits = append(limits, limit)
	}
	if cpu.Cpus != "" || cpu.Mems != "" {
		limits = append(limits, v2Limit{
			field: "linux.resources.cpu.cpus", controller: "cpuset",
			files: given(setting{file: "cpuset.cpus", value: cpu.Cpus}, setting{file: "cpuset.mems", value: cpu.Mems}),
		})
	}
	return limits, nil
}

// Shares have bounds, beyond which the kernel of v1 takes what is next to them without a word.
const leastShares, mostShares = 2, 262144

// cpuWeight turns v1's shares of 2 to 262144 into a weight of 1 to 10000, such that the default of one, 1024, is the
// default of the other, 100. Every runtime has agreed on this curve through the three points.
func cpuWeight(shares uint64) int {
	const leastWeight, mostWeight = 1, 10000
	switch {
	case shares <= leastShares:
		return leastWeight
	case shares >= mostShares:
		return mostWeight
	}
	l := math.Log2(float64(shares))
	return int(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// cpuMax is the line for cpu.max, with what is not given as it is now.
func (c *v2) cpuMax(cpu *specs.LinuxCPU, quota, period bool) (string, error) {
	content, err := kernelfile.Read(filepath.Join(c.dir, "cpu.max"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot read the processor limit: %w", err)
	}
	parts := strings.Fields(string(content))
	if len(parts) != 2 {
		parts = []string{"max", "100000"}
	}
	if quota {
		parts[0] = "max"
		if *cpu.Quota > 0 {
			parts[0] = strconv.FormatInt(*cpu.Quota, 10)
		}
	}
	if period {
		parts[1] = strconv.FormatUint(*cpu.Period, 10)
	}
	return strings.Join(parts, " "), nil
}

// limitDevices attaches the device rules. Without root's rights that is not allowed, nor needed: mknod is barred too.
func (c *v2) limitDevices(rules []specs.LinuxDeviceCgroup) error {
	state, err := parseDevices(rules)
	if err != nil {
		return err
	}
	state.addDefaults()
	err = attachDevices(c.fd, state)
	if errors.Is(err, unix.EPERM) && ordinary() {
		c.barred = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot set linux.resources.devices: %w", err)
	}
	return nil
}
