package containers

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/manager/bundle"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Update changes limits and the restart policy, at once if the container runs. Devices, ulimits and the OOM score are
// given to processes when they start, and hold from the next start on.
func (s *Service) Update(ctx context.Context, ref string, limits *berthv1.Resources, policy *berthv1.RestartPolicy) (err error) {
	c, release, err := s.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	ctx = context.WithoutCancel(ctx)
	before := c.snapshot().GetSpec()
	after := proto.CloneOf(before)
	if limits.GetCgroupParent() != "" {
		return invalid("cannot update container %q: cgroup_parent can't be changed: the container is in its cgroup", c.snapshot().GetName())
	}
	after.Resources = mergeResources(before.GetResources(), limits)
	if policy != nil {
		after.Restart = policy
	}
	if err := checkLife(after); err != nil {
		return err
	}
	resources, err := bundle.UpdatedResources(before.GetResources(), after.GetResources())
	if err != nil {
		return err
	}
	var undo cleanup.Stack
	defer func() { err = undo.Run(ctx, err) }()
	c.setSpec(after)
	undo.Add(func(context.Context) error { c.setSpec(before); return c.saveConfig() })
	if err := c.saveConfig(); err != nil {
		return fmt.Errorf("cannot update container %q: %w", c.snapshot().GetName(), err)
	}
	if current := c.active(); current != nil && limits != nil {
		if err := current.task().Update(ctx, resources); err != nil {
			return fmt.Errorf("cannot update container %q: %w", c.snapshot().GetName(), err)
		}
	}
	s.publish(c, "update")
	return nil
}

// mergeResources sets those limits that are present. A list replaces the one before: merged as protobuf does it, it
// would grow with each update.
func mergeResources(before, changes *berthv1.Resources) *berthv1.Resources {
	merged := proto.CloneOf(before)
	if merged == nil {
		merged = &berthv1.Resources{}
	}
	if changes == nil {
		return merged
	}
	if len(changes.GetBlkioThrottles()) > 0 {
		merged.BlkioThrottles = nil
	}
	if len(changes.GetDevices()) > 0 {
		merged.Devices = nil
	}
	if len(changes.GetDeviceCgroupRules()) > 0 {
		merged.DeviceCgroupRules = nil
	}
	if len(changes.GetUlimits()) > 0 {
		merged.Ulimits = nil
	}
	if changes.Memory != nil && changes.GetMemory() == 0 && changes.MemorySwap == nil {
		merged.MemorySwap = nil // it counts the memory too, and means nothing without a limit of that
	}
	proto.Merge(merged, changes)
	return merged
}

func (c *container) setSpec(spec *berthv1.ContainerSpec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.message.Spec = spec
}
