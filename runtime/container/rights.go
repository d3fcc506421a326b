package container

import (
	"fmt"
	"strings"

	"github.com/berthd/berth/runtime/capability"
	"github.com/berthd/berth/runtime/process"
)

// grant gives a process its capabilities. Those that nobody has to give are no error: a configuration for a newer kernel,
// or for a host that denies its root nothing, is still good for what is left of it. In a user namespace of its own the
// container has them all.
func grant(c *process.Config, ownUser bool, warn func(text string)) error {
	var err error
	if c.LastCap, err = capability.KernelLast(); err != nil {
		return err
	}
	available := capability.All(c.LastCap)
	if !ownUser {
		held, err := capability.Held()
		if err != nil {
			return err
		}
		available &= held
	}
	masks, unknown := capability.Sets(c.Process.Capabilities)
	var lost []string
	c.Masks, lost = masks.Limit(available)
	if len(lost) > 0 {
		warn(fmt.Sprintf("process.capabilities: %s can't be granted here", strings.Join(lost, ", ")))
	}
	if ambient := c.LostAmbient(); len(ambient) > 0 {
		warn(fmt.Sprintf("process.capabilities.ambient: %s can't be raised: permitted and inheritable lack it", strings.Join(ambient, ", ")))
	}
	if len(unknown) > 0 {
		warn(fmt.Sprintf("process.capabilities: there is no %s", strings.Join(unknown, ", ")))
	}
	return nil
}
