package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/runtime/hooks"
)

// stateInside is the state for hooks in the container's namespaces: they know the first process by the pid that it has
// there.
func (c *Container) stateInside(status specs.ContainerState) (specs.State, error) {
	state := c.OCIState(status)
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Pid))
	if err != nil {
		return state, fmt.Errorf("cannot find the container's process: %w", err)
	}
	for line := range bytes.Lines(content) {
		if pids, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			fields := bytes.Fields(pids)
			state.Pid, err = strconv.Atoi(string(fields[len(fields)-1]))
		}
	}
	return state, err
}

// hookError is the failure of a hook that a container doesn't survive.
type hookError struct{ error }

func (h hookError) Unwrap() error { return h.error }

// endAfter deletes a container that a hook has failed for.
func (c *Container) endAfter(err error) error {
	if failed := (hookError{}); errors.As(err, &failed) {
		return errors.Join(err, c.Delete(true))
	}
	return err
}

// afterHooks runs the last hooks for a container that could not be made, if the first have been called.
func (c *Created) afterHooks(context.Context) error {
	if c.hooked {
		c.poststop(c.Spec.Hooks)
	}
	return nil
}

// poststop runs the hooks that come when all else of the container is gone. That one fails changes nothing any more.
func (c *Container) poststop(list *specs.Hooks) {
	if list == nil {
		return
	}
	if err := hooks.RunAll("poststop", list.Poststop, c.OCIState(specs.StateStopped)); err != nil && c.Warn != nil {
		c.Warn(err.Error())
	}
}
