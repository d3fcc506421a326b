package container

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/hooks"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/process"
)

// Start lets the process of a created container execute its program. The caller has protected the runtime's binary where
// the container is TracedAtStart.
func (c *Container) Start() error {
	if err := c.require("start", specs.StateCreated); err != nil {
		return err
	}
	spec, err := c.Spec()
	if err != nil {
		return err
	}
	return c.endAfter(c.startWith(spec, func() error { return c.release(spec) }))
}

// Start lets the process execute its program: the process of a container that this call of the runtime has made.
func (c *Created) Start() error {
	return c.startWith(c.Spec, func() error {
		if err := c.process.Release(); err != nil {
			return err
		}
		if err := c.handOver(c.Spec, c.process.Pid, specs.StateCreated, c.process); err != nil {
			return err
		}
		return c.process.Executed()
	})
}

func (c *Container) startWith(spec *specs.Spec, release func() error) error {
	if spec.Hooks == nil {
		return release()
	}
	if err := c.startHooks(spec); err != nil {
		return hookError{err}
	}
	if err := release(); err != nil {
		return err
	}
	if len(spec.Hooks.Poststart) == 0 {
		return nil
	}
	err := c.unlocked(func() error { return hooks.Run("poststart", spec.Hooks.Poststart, c.OCIState(specs.StateRunning)) })
	if err != nil {
		return hookError{err}
	}
	return nil
}

// executionError turns what the process says of its last operations into a sentence: the program they belong to was
// written by another process, and only their error has come across.
func (c *Container) executionError(errno unix.Errno) error {
	spec, err := c.Spec()
	if err != nil {
		return errors.Join(fmt.Errorf("cannot start container %q: %w", c.ID, errno), err)
	}
	return process.ExecutionFailed(spec.Process.Args[0], errno)
}

// Process is the container's first process.
func (c *Created) Process() *launch.Process { return c.process }

// Wait waits for the process of an attached container to end and returns its status.
func (c *Created) Wait() (unix.WaitStatus, error) { return c.process.Reap() }
