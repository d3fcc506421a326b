package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// creator is what each controller of the cgroups library can do for us: write the values of its section.
type creator interface {
	Create(path string, resources *specs.LinuxResources) error
}

// updater is a creator that knows an order of writing that suits a cgroup in use.
type updater interface {
	Update(path string, resources *specs.LinuxResources) error
}

// v1Limit is a section of linux.resources and the controller that enforces it.
type v1Limit struct {
	field      string
	controller cgroup1.Name
	open       func(root string) (creator, error)
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
		if err := c.limitDevices(resources.Devices); err != nil {
			return err
		}
	}
	if resources.Memory != nil {
		if err := c.limitMemory(resources, create); err != nil {
			return err
		}
	}
	if resources.CPU != nil {
		if err := c.limitCPU(resources.CPU); err != nil {
			return err
		}
	}
	if err := c.limitPids(resources.Pids); err != nil {
		return err
	}
	if resources.BlockIO != nil {
		if err := c.limitBlockIO(resources.BlockIO, create); err != nil {
			return err
		}
	}
	for _, limit := range v1Limits(resources) {
		if err := c.set(limit, resources, create); err != nil {
			return err
		}
	}
	return nil
}

// v1Limits lists the sections in use that the library handles as they are.
func v1Limits(resources *specs.LinuxResources) []v1Limit {
	var limits []v1Limit
	add := func(used bool, field string, controller cgroup1.Name, open func(string) (creator, error)) {
		if used {
			limits = append(limits, v1Limit{"linux.resources." + field, controller, open})
		}
	}
	cpu := resources.CPU
	add(cpu != nil && (cpu.Cpus != "" || cpu.Mems != ""), "cpu.cpus", cgroup1.Cpuset,
		func(root string) (creator, error) { return cgroup1.NewCpuset(root), nil })
	network := resources.Network
	add(network != nil && network.ClassID != nil && *network.ClassID != 0, "network.classID", cgroup1.NetCLS,
		func(root string) (creator, error) { return cgroup1.NewNetCls(root), nil })
	add(network != nil && len(network.Priorities) > 0, "network.priorities", cgroup1.NetPrio,
		func(root string) (creator, error) { return cgroup1.NewNetPrio(root), nil })
	add(len(resources.HugepageLimits) > 0, "hugepageLimits", cgroup1.Hugetlb,
		func(root string) (creator, error) { return cgroup1.NewHugetlb(root) })
	add(len(resources.Rdma) > 0, "rdma", cgroup1.Rdma,
		func(root string) (creator, error) { return eachDevice{cgroup1.NewRdma(root)}, nil })
	return limits
}

// eachDevice gives the library's rdma controller one device a call: it writes no more than one.
type eachDevice struct{ rdma creator }

func (e eachDevice) Create(path string, resources *specs.LinuxResources) error {
	for name, limits := range resources.Rdma {
		if err := e.rdma.Create(path, &specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{name: limits}}); err != nil {
			return err
		}
	}
	return nil
}

// set hands a section to the library's controller.
func (c *v1) set(limit v1Limit, resources *specs.LinuxResources, create bool) error {
	root, path, ok := c.locate(limit.controller)
	if !ok {
		return unsupported(limit.field, fmt.Sprintf("the host has no %s cgroup hierarchy in %s", limit.controller, mountRoot))
	}
	controller, err := limit.open(root)
	if err == nil {
		if inUse, ok := controller.(updater); ok && !create {
			err = inUse.Update(path, resources)
		} else {
			err = controller.Create(path, resources)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot set %s: %w", limit.field, err)
	}
	return nil
}

// limitPids writes the limit itself: to the library, which changes nothing then, no limit and 0 mean the same.
func (c *v1) limitPids(pids *specs.LinuxPids) error {
	if pids == nil || pids.Limit == nil {
		return nil
	}
	dir, ok := c.paths[string(cgroup1.Pids)]
	if !ok {
		return unsupported("linux.resources.pids.limit", "the host has no pids cgroup hierarchy")
	}
	if err := writeFile(filepath.Join(dir, "pids.max"), pidsMax(*pids.Limit)); err != nil {
		return fmt.Errorf("cannot set linux.resources.pids.limit: %w", err)
	}
	return nil
}

// limitMemory sets the memory limits. Zero means unset, as in runc.
func (c *v1) limitMemory(resources *specs.LinuxResources, create bool) error {
	memory, err := c.memorySettings(resources.Memory)
	if err != nil {
		return err
	}
	limit := v1Limit{
		"linux.resources.memory", cgroup1.Memory,
		func(root string) (creator, error) { return cgroup1.NewMemory(root), nil },
	}
	if memory.Swap != nil && *memory.Swap == -1 && memory.Limit != nil {
		// Memory may not be raised above memory+swap; the library knows this only of limits.
		first := &specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: memory.Swap}}
		if err := c.set(limit, first, create); err != nil {
			return err
		}
		memory.Swap = nil
	}
	err = c.set(limit, &specs.LinuxResources{Memory: memory}, create)
	if errors.Is(err, unix.EBUSY) && memory.Limit != nil {
		return errdefs.As(errdefs.ErrFailedPrecondition,
			fmt.Errorf("linux.resources.memory.limit: the container uses more than %d bytes already: %w", *memory.Limit, err))
	}
	return err
}

// memorySettings returns a copy of memory as the kernel of cgroup v1 wants it.
func (c *v1) memorySettings(memory *specs.LinuxMemory) (*specs.LinuxMemory, error) {
	settings := *memory
	dir := c.paths[string(cgroup1.Memory)]
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

// limitCPU sets processor time. Zero means unset, as in runc.
func (c *v1) limitCPU(cpu *specs.LinuxCPU) error {
	settings := *cpu
	for _, value := range []**uint64{&settings.Shares, &settings.Period, &settings.RealtimePeriod} {
		if *value != nil && **value == 0 {
			*value = nil
		}
	}
	for _, value := range []**int64{&settings.Quota, &settings.RealtimeRuntime} {
		if *value != nil && **value == 0 {
			*value = nil
		}
	}
	dir := c.paths[string(cgroup1.Cpu)]
	if cpu.Burst != nil && settings.Quota != nil && dir != "" {
		// A burst may not exceed the quota: the old one could forbid the new quota, and the old quota the new burst.
		if err := writeFile(filepath.Join(dir, "cpu.cfs_burst_us"), "0"); err != nil {
			return fmt.Errorf("cannot set linux.resources.cpu.burst: %w", err)
		}
	}
	return c.setCPU(dir, cpu, &settings)
}

func (c *v1) setCPU(dir string, cpu, settings *specs.LinuxCPU) error {
	set := func(field, file, value string) error {
		if value == "" || dir == "" { // the library's part fails without the hierarchy
			return nil
		}
		if err := writeFile(filepath.Join(dir, file), value); err != nil {
			return fmt.Errorf("cannot set linux.resources.cpu.%s: %w", field, err)
		}
		return nil
	}
	if err := set("idle", "cpu.idle", format(cpu.Idle)); err != nil {
		return err
	}
	limit := v1Limit{"linux.resources.cpu", cgroup1.Cpu, func(root string) (creator, error) { return cgroup1.NewCpu(root), nil }}
	if err := c.set(limit, &specs.LinuxResources{CPU: settings}, true); err != nil {
		return err
	}
	return set("burst", "cpu.cfs_burst_us", format(cpu.Burst))
}
