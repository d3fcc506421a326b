package containers

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/manager/bundle"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Update changes limits and the restart policy, at once if the container runs.
func (s *Service) Update(ctx context.Context, ref string, limits *berthv1.Resources, policy *berthv1.RestartPolicy) (err error) {
	c, release, err := s.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	ctx = context.WithoutCancel(ctx)
	before := c.snapshot().GetSpec()
	after := proto.CloneOf(before)
	if limits != nil {
		if after.Resources == nil {
			after.Resources = &berthv1.Resources{}
		}
		proto.Merge(after.GetResources(), limits)
	}
	if policy != nil {
		after.Restart = policy
	}
	if err := checkLife(after); err != nil {
		return err
	}
	resources, err := bundle.Resources(after.GetResources())
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

func (c *container) setSpec(spec *berthv1.ContainerSpec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.message.Spec = spec
}
