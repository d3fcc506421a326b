package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/kernelfile"
)

// v1Limit is a section of linux.resources with the hierarchy that enforces it, and what to write there, in order.
type v1Limit struct {
	field, controller string
	files             []setting
}

// limit sets what resources asks for. Sections that are absent cost nothing.
func (c *v1) limit(resources *specs.LinuxResources, create bool) error {
	if resources == nil {
		resources = &specs.LinuxResources{}
	}
	if len(resources.Unified) > 0 {
		return unsupported("linux.resources.unified", "this host has cgroup v1")
	}
	if create || len(resources.Devices) > 0 {
		if err := c.limitDevices(resources.Devices, create); err != nil {
			return err
		}
	}
	limits, err := c.limits(resources)
	if err != nil {
		return err
	}
	for _, limit := range limits {
		if err := c.set(limit); err != nil {
			return err
		}
	}
	return nil
}

// limits translates the sections in use.
func (c *v1) limits(resources *specs.LinuxResources) ([]v1Limit, error) {
	var limits []v1Limit
	if resources.Memory != nil {
		limit, err := c.memoryLimit(resources.Memory)
		if err != nil {
			return nil, err
		}
		limits = append(limits, limit)
	}
	if resources.CPU != nil {
		if shares := resources.CPU.Shares; shares != nil && *shares != 0 && (*shares < leastShares || *shares > mostShares) {
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("linux.resources.cpu.shares: %d is not from %d to %d", *shares, leastShares, mostShares))
		}
		limits = append(limits, cpuLimits(resources.CPU)...)
		limits = append(limits, v1Limit{field: "linux.resources.cpu.cpus", controller: "cpuset", files: given(
			setting{file: "cpuset.cpus", value: resources.CPU.Cpus}, setting{file: "cpuset.mems", value: resources.CPU.Mems})})
	}
	if pids := resources.Pids; pids != nil && pids.Limit != nil {
		limits = append(limits, v1Limit{field: "linux.resources.pids.limit", controller: "pids", files: []setting{{file: "pids.max", value: pidsMax(*pids.Limit)}}})
	}
	if resources.BlockIO != nil {
		limits = append(limits, c.blockIOLimits(resources.BlockIO)...)
	}
	if network := resources.Network; network != nil {
		limits = append(limits, networkLimits(network)...)
	}
	for _, page := range resources.HugepageLimits {
		limit := strconv.FormatUint(page.Limit, 10)
		limits = append(limits, v1Limit{field: fmt.Sprintf("linux.resources.hugepageLimits of %q", page.Pagesize), controller: "hugetlb", files: []setting{
			{file: "hugetlb." + page.Pagesize + ".limit_in_bytes", value: limit},
			{file: "hugetlb." + page.Pagesize + ".rsvd.limit_in_bytes", value: limit, optional: true},
		}})
	}
	for device, rdma := range resources.Rdma {
		limit := rdmaLimit(device, rdma)
		limits = append(limits, v1Limit(limit))
	}
	return limits, nil
}

// given leaves out settings without a value.
func given(settings ...setting) []setting {
	return slices.DeleteFunc(settings, func(s setting) bool { return s.value == "" })
}

func networkLimits(network *specs.LinuxNetwork) []v1Limit {
	var limits []v1Limit
	if network.ClassID != nil && *network.ClassID != 0 {
		limits = append(limits, v1Limit{
			field: "linux.resources.network.classID", controller: "net_cls",
			files: []setting{{file: "net_cls.classid", value: strconv.FormatUint(uint64(*network.ClassID), 10)}},
		})
	}
	if len(network.Priorities) > 0 {
		limit := v1Limit{field: "linux.resources.network.priorities", controller: "net_prio"}
		for _, p := range network.Priorities {
			limit.files = append(limit.files, setting{file: "net_prio.ifpriomap", value: fmt.Sprintf("%s %d", p.Name, p.Priority)})
		}
		limits = append(limits, limit)
	}
	return limits
}

// set writes a section. Without anything to write the hierarchy may be missing.
func (c *v1) set(limit v1Limit) error {
	if len(limit.files) == 0 {
		return nil
	}
	dir, ok := c.paths[limit.controller]
	if !ok {
		return unsupported(limit.field, fmt.Sprintf("the host has no %s cgroup hierarchy in %s", limit.controller, mountRoot))
	}
	files := limit.files
	for i := 0; i < len(files); i++ {
		s := files[i]
		err := kernelfile.Write(filepath.Join(dir, s.file), s.value)
		switch {
		case err == nil, s.optional && errors.Is(err, fs.ErrNotExist):
		case s.again && errors.Is(err, unix.EINVAL):
			files = slices.Insert(slices.Clone(files), i+2, setting{file: s.file, value: s.value})
		case errors.Is(err, fs.ErrNotExist):
			return unsupported(limit.field, "the host's kernel has no "+s.file)
		case errors.Is(err, unix.EBUSY) && s.file == memoryLimitFile:
			return errdefs.As(errdefs.ErrFailedPrecondition,
				fmt.Errorf("linux.resources.memory.limit: the container uses more than %s bytes already: %w", s.value, err))
		default:
			return fmt.Errorf("cannot set %s: %w", limit.field, err)
		}
	}
	return nil
}

const (
	memoryLimitFile = "memory.limit_in_bytes"
	memoryAndSwap   = "memory.memsw.limit_in_bytes"
)

// memoryLimit sets the memory limits. Zero means unset, as in runc.
func (c *v1) memoryLimit(wanted *specs.LinuxMemory) (v1Limit, error) {
	limit := v1Limit{field: "linux.resources.memory", controller: "memory"}
	memory, err := c.memorySettings(wanted)
	if err != nil {
		return limit, err
	}
	first, second := setting{file: memoryLimitFile, value: format(memory.Limit)}, setting{file: memoryAndSwap, value: format(memory.Swap)}
	if memory.Limit != nil && memory.Swap != nil && c.raises(*memory.Swap) {
		first, second = second, first // memory may never be more than memory and swap together
	}
	swappiness, oomControl := "", ""
	if memory.Swappiness != nil {
		swappiness = strconv.FormatUint(*memory.Swappiness, 10)
	}
	if memory.DisableOOMKiller != nil {
		oomControl = "1"
	}
	limit.files = given(first, second,
		setting{file: "memory.soft_limit_in_bytes", value: format(memory.Reservation)},
		setting{file: "memory.kmem.limit_in_bytes", value: format(memory.Kernel)}, //nolint:staticcheck // deprecated, not gone
		setting{file: "memory.kmem.tcp.limit_in_bytes", value: format(memory.KernelTCP)},
		setting{file: "memory.oom_control", value: oomControl},
		setting{file: "memory.swappiness", value: swappiness},
	)
	return limit, nil
}

// raises tells whether a limit of memory and swap is above the present one.
func (c *v1) raises(swap int64) bool {
	present, err := readNumber(filepath.Join(c.paths["memory"], memoryAndSwap))
	return err == nil && (swap == unlimited || swap > present)
}

// memorySettings returns a copy of memory as the kernel of cgroup v1 wants it.
func (c *v1) memorySettings(memory *specs.LinuxMemory) (*specs.LinuxMemory, error) {
	settings := *memory
	dir := c.paths["memory"]
	for _, value := range []**int64{&settings.Limit, &settings.Reservation, &settings.Swap, &settings.Kernel, &settings.KernelTCP} { //nolint:staticcheck // deprecated, not gone
		if *value != nil && **value == 0 {
			*value = nil
		}
	}
	if settings.Swappiness != nil && int64(*settings.Swappiness) == unlimited {
		settings.Swappiness = nil // Docker's way to say nothing
	}
	if settings.DisableOOMKiller != nil && !*settings.DisableOOMKiller {
		settings.DisableOOMKiller = nil // the kernel's own default
	}
	if settings.Limit != nil && *settings.Limit == -1 && settings.Swap == nil {
		settings.Swap = settings.Limit // no limit of memory with one of memory+swap makes no sense
	}
	for _, optional := range []struct {
		field, file string
		value       **int64
	}{
		{"swap", "memory.memsw.limit_in_bytes", &settings.Swap},
		{"kernel", "memory.kmem.limit_in_bytes", &settings.Kernel}, //nolint:staticcheck // deprecated, not gone
		{"kernelTCP", "memory.kmem.tcp.limit_in_bytes", &settings.KernelTCP},
	} {
		if *optional.value == nil || dir == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, optional.file)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if **optional.value != -1 {
			return nil, unsupported("linux.resources.memory."+optional.field, "the host's kernel has no "+optional.file)
		}
		*optional.value = nil // no limit is what it has
	}
	if memory.CheckBeforeUpdate != nil && *memory.CheckBeforeUpdate && settings.Limit != nil && dir != "" {
		return &settings, checkUsage(filepath.Join(dir, "memory.usage_in_bytes"), *settings.Limit)
	}
	return &settings, nil
}

// checkUsage refuses a limit below what is used, which would make the kernel kill processes.
func checkUsage(file string, limit int64) error {
	usage, err := readNumber(file)
	if err != nil {
		return fmt.Errorf("cannot check linux.resources.memory.limit: %w", err)
	}
	if limit >= 0 && usage > limit {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf(
			"linux.resources.memory.limit: the container uses %d bytes, more than the new limit of %d", usage, limit))
	}
	return nil
}

// cpuLimits sets processor time. Zero means unset, as in runc.
func cpuLimits(cpu *specs.LinuxCPU) []v1Limit {
	unsigned := func(value *uint64) string {
		if value == nil || *value == 0 {
			return ""
		}
		return format(value)
	}
	signed := func(value *int64) string {
		if value == nil || *value == 0 {
			return ""
		}
		return format(value)
	}
	noBurst := ""
	if cpu.Burst != nil && signed(cpu.Quota) != "" {
		noBurst = "0" // a burst may not exceed the quota: the old one could forbid the new quota
	}
	idle, shares := setting{file: "cpu.idle", value: format(cpu.Idle)}, setting{file: "cpu.shares", value: unsigned(cpu.Shares)}
	if idle.value == "1" { // there are no shares for the idle: they come before, or behind what ends that
		idle, shares = shares, idle
	}
	quota, runtime := signed(cpu.Quota), signed(cpu.RealtimeRuntime)
	// More of the time than the parent has is refused, which the new period and the old time in it may come to.
	return []v1Limit{{field: "linux.resources.cpu", controller: "cpu", files: given(
		setting{file: "cpu.cfs_burst_us", value: noBurst},
		idle, shares,
		setting{file: "cpu.rt_period_us", value: unsigned(cpu.RealtimePeriod), again: runtime != ""},
		setting{file: "cpu.rt_runtime_us", value: runtime},
		setting{file: "cpu.cfs_period_us", value: unsigned(cpu.Period), again: quota != ""},
		setting{file: "cpu.cfs_quota_us", value: quota},
	)}, {field: "linux.resources.cpu.burst", controller: "cpu", files: given(setting{file: "cpu.cfs_burst_us", value: format(cpu.Burst)})}}
}
