package container

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/cgroup"
	"github.com/berthd/berth/runtime/resctrl"
)

// Pause stops all processes of the container until Resume.
func (c *Container) Pause() error {
	if err := c.require("pause", specs.StateCreated, specs.StateRunning); err != nil {
		return err
	}
	return c.withCgroup(cgroup.Cgroup.Freeze)
}

// Resume lets all processes of the container go on.
func (c *Container) Resume() error {
	if err := c.require("resume", Paused); err != nil {
		return err
	}
	return c.withCgroup(cgroup.Cgroup.Thaw)
}

// Update changes the limits of the container. What resources leaves out stays.
func (c *Container) Update(resources *specs.LinuxResources) error {
	if err := c.require("update", specs.StateCreated, specs.StateRunning, Paused); err != nil {
		return err
	}
	if err := c.keepSwap(resources.Memory); err != nil {
		return err
	}
	return c.withCgroup(func(group cgroup.Cgroup) error { return group.Update(resources) })
}

// keepSwap makes a new limit of memory leave that of memory and swap together as it is, if the configuration has one: v1
// counts so, but v2 counts swap alone.
func (c *Container) keepSwap(memory *specs.LinuxMemory) error {
	if memory == nil || memory.Limit == nil || *memory.Limit <= 0 || memory.Swap != nil {
		return nil
	}
	spec, err := c.Spec()
	if err != nil {
		return err
	}
	if r := spec.Linux.Resources; r == nil || r.Memory == nil || r.Memory.Swap == nil || *r.Memory.Swap <= 0 {
		return nil
	}
	if both, limited := cgroup.MemoryAndSwap(c.Cgroups); limited {
		memory.Swap = &both
	}
	return nil
}

// UpdateClass changes what the container's class of service has.
func (c *Container) UpdateClass(l3Cache, memoryBandwidth string) error {
	if err := c.require("update", specs.StateCreated, specs.StateRunning, Paused); err != nil {
		return err
	}
	if c.Class == nil {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot update container %q: it has no class of service, which linux.intelRdt gives", c.ID))
	}
	root, err := resctrl.Mounted()
	if err != nil {
		return err
	}
	return c.Class.Update(root, l3Cache, memoryBandwidth)
}

// Pids lists the container's processes.
func (c *Container) Pids() (pids []int, err error) {
	err = c.withCgroup(func(group cgroup.Cgroup) error {
		pids, err = group.Pids()
		return err
	})
	return pids, err
}

func (c *Container) withCgroup(act func(cgroup.Cgroup) error) error {
	group, err := c.loadCgroup()
	if err != nil {
		return err
	}
	defer func() { _ = group.Close() }()
	return act(group)
}

// loadCgroup opens the cgroup that create made.
func (c *Container) loadCgroup() (cgroup.Cgroup, error) {
	if c.Scope {
		return cgroup.LoadScope(c.Cgroups)
	}
	return cgroup.Load(c.Cgroups)
}
