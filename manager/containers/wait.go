package containers

import (
	"context"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Wait blocks until the condition holds, and answers the exit code and why the container did not start, if it did not.
func (s *Service) Wait(ctx context.Context, ref string, condition berthv1.WaitCondition) (int32, string, error) {
	c, err := s.find(ref)
	if err != nil {
		return 0, "", err
	}
	c.mu.Lock()
	exits := c.history.exits
	c.mu.Unlock()
	err = c.await(ctx, func() bool {
		switch {
		case c.history.removed:
			return true
		case condition == berthv1.WaitCondition_WAIT_CONDITION_REMOVED:
			return false
		case condition == berthv1.WaitCondition_WAIT_CONDITION_NEXT_EXIT:
			return c.history.exits > exits
		}
		state := c.message.GetState().GetStatus()
		return c.current == nil && c.step != stepStart && state != statusRestarting
	})
	if err != nil {
		return 0, "", err
	}
	state := c.snapshot().GetState()
	return state.GetExitCode(), state.GetError(), nil
}
