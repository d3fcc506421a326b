// Package cgroup makes, limits, freezes and removes the control groups of a container, on cgroup v1, v2 and hybrid
// hosts. It writes the kernel's files itself: to import github.com/containerd/cgroups would take a millisecond of every start.
package cgroup

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/cleanup"
)

// Config says which cgroup a container gets.
type Config struct {
	ID        string                // the container's, for the default path
	Path      string                // linux.cgroupsPath
	Systemd   bool                  // Path is slice:prefix:name
	Resources *specs.LinuxResources // linux.resources; may be nil
	Owner     uint32                // the user to whom a cgroup of v2 is delegated; 0 for nobody

	// Annotations may name further properties of the unit that systemd makes.
	Annotations map[string]string

	// Planned is told Paths before anything of them is made, so that they are known even if this process is killed.
	Planned func(paths map[string]string) error

	// Founded, if set, is told the cgroup when the directory is there in which the first process may be born, of which
	// DirFD is known then. JoinFiles are known too, while they and the limits are still to be made. What it returns undoes it.
	Founded func(unfinished Cgroup) (undo func(), err error)

	held bool // there is a process in the cgroup already, which is ours
}

func (c Config) planned(paths map[string]string) error {
	if c.Planned == nil {
		return nil
	}
	return c.Planned(paths)
}

func (c Config) founded(unfinished Cgroup, undo *cleanup.Stack) error {
	if c.Founded == nil {
		return nil
	}
	end, err := c.Founded(unfinished)
	if err == nil {
		undo.Add(func(context.Context) error { end(); return nil })
	}
	return err
}

// Cgroup is a container's place in the hierarchy, or with v1 in all hierarchies.
type Cgroup interface {
	// DirFD is a descriptor of the cgroup's directory for CLONE_INTO_CGROUP, or -1 on cgroup v1 and for what is Distant.
	DirFD() int
	// JoinFiles are the files into which a process of one thread writes "0" to move itself into the cgroup, one a
	// hierarchy (v1's tasks files). The kernel takes no global lock for that, unlike for Add, which makes it many times
	// faster. Empty on cgroup v2, where DirFD does the same at no cost.
	JoinFiles() []string
	// Add moves a process into the cgroup.
	Add(pid int) error
	// Barred tells whether Create was not allowed to set rules for devices, as in a user namespace. Devices can't be made
	// there either.
	Barred() bool
	// Update changes the limits; what resources leaves out stays.
	Update(resources *specs.LinuxResources) error
	// Freeze stops all processes, and returns when they have stopped.
	Freeze() error
	// Thaw lets them go on.
	Thaw() error
	// Frozen tells whether Freeze is in effect.
	Frozen() (bool, error)
	// Kill sends SIGKILL to every process, forks in flight included.
	Kill() error
	// Pids lists the processes in the cgroup and below it.
	Pids() ([]int, error)
	// Delete removes the cgroup and those below it. That it is gone already is no error.
	Delete() error
	// Paths are the cgroup's directories by controller, as runc's state has them: one with the key "" on cgroup v2.
	// Load opens the cgroup again from them.
	Paths() map[string]string
	// Close releases descriptors. The cgroup stays.
	Close() error
}
