package container

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/cgroup"
	"github.com/berthd/berth/runtime/kernelfile"
)

// Paused is a status that the specification leaves to the runtime.
const Paused specs.ContainerState = "paused"

// Status says where in its life the container is.
func (c *Container) Status() specs.ContainerState {
	if c.Pid == 0 {
		return specs.StateCreating // or it would have been, if its create had not been killed
	}
	if !c.alive() {
		return specs.StateStopped
	}
	if group, err := cgroup.Load(c.Cgroups); err == nil {
		frozen, err := group.Frozen()
		_ = group.Close()
		if err == nil && frozen {
			return Paused
		}
	}
	if _, err := os.Lstat(filepath.Join(c.dir, startSocket)); err == nil {
		return specs.StateCreated
	}
	return specs.StateRunning
}

// alive tells whether the container's first process exists and is no zombie.
func (c *Container) alive() bool {
	if c.Pid <= 0 {
		return false
	}
	start, running, err := processTimes(c.Pid)
	return err == nil && running && start == c.StartTime
}

// processTimes reads when a process started, and whether it has not ended.
func processTimes(pid int) (start uint64, running bool, err error) {
	const state, startTime = 0, 19 // fields behind the name, which is in parentheses and may contain anything
	content, err := kernelfile.Read("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false, err
	}
	fields := bytes.Fields(content[bytes.LastIndexByte(content, ')')+1:])
	if len(fields) <= startTime {
		return 0, false, fmt.Errorf("cannot understand /proc/%d/stat", pid)
	}
	start, err = strconv.ParseUint(string(fields[startTime]), 10, 64)
	dead := fields[state][0] == 'Z' || fields[state][0] == 'X'
	return start, !dead, err
}

var errNotRunning = errors.New("container not running")

// require refuses to act on a container that is in none of the states.
func (c *Container) require(verb string, states ...specs.ContainerState) error {
	status := c.Status()
	for _, state := range states {
		if status == state {
			return nil
		}
	}
	if status == specs.StateStopped {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot %s container %q: %w (it is %s)", verb, c.ID, errNotRunning, status))
	}
	return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot %s container %q: it is %s", verb, c.ID, status))
}

// OCIState is the state as the specification defines it.
func (c *Container) OCIState(status specs.ContainerState) specs.State {
	state := specs.State{Version: c.OCIVersion, ID: c.ID, Status: status, Pid: c.Pid, Bundle: c.Bundle, Annotations: c.Annotations}
	if status == specs.StateStopped {
		state.Pid = 0
	}
	return state
}
