package container

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/capability"
	"github.com/berthd/berth/runtime/kernelfile"
)

// tracerFile is in the directory of a container in which exec has started a process that may trace others.
const tracerFile = "tracer"

// Traced tells whether the runtime may be traced while it is in the container that the bundle is for.
func (b *Bundle) Traced() bool { return hasNeighbours(b.spec) || canTrace(b.spec, b.spec.Process) }

// Traced tells whether the runtime may be traced while it executes a process in the container. If not, no process that may
// trace is started until Exec returns, or Yield is called.
func (c *Container) Traced(process *specs.Process) (bool, error) {
	spec, err := c.Spec()
	if err != nil {
		return false, err
	}
	if hasNeighbours(spec) || canTrace(spec, spec.Process) || canTrace(spec, process) {
		return true, nil
	}
	if c.untraced, err = c.lockState(unix.LOCK_SH); err != nil {
		return false, err
	}
	if unix.Access(c.tracer(), unix.F_OK) == nil {
		c.allowTracers()
		return true, nil
	}
	return false, nil
}

// lockState locks the state file, which tells who enters the container: those that must not be traced there share the lock.
func (c *Container) lockState(how int) (*os.File, error) {
	fd, err := kernelfile.Open(filepath.Join(c.dir, stateFile), unix.O_RDONLY, 0)
	if err != nil {
		return nil, c.absent(err)
	}
	file := os.NewFile(uintptr(fd), stateFile)
	if err := flock(file, how, time.Now().Add(lockPatience)); err != nil {
		_ = file.Close()
		return nil, c.notLocked(err)
	}
	return file, nil
}

// allowTracers ends what Traced has begun.
func (c *Container) allowTracers() {
	if c.untraced != nil {
		_ = unix.Flock(int(c.untraced.Fd()), unix.LOCK_UN) // a child may have a copy of the descriptor
		_ = c.untraced.Close()
		c.untraced = nil
	}
}

// TracedAtStart tells whether the runtime comes into the container when it starts, for hooks, and may be traced there.
func (c *Container) TracedAtStart() (bool, error) {
	spec, err := c.Spec()
	if err != nil || spec.Hooks == nil || len(spec.Hooks.StartContainer) == 0 {
		return false, err
	}
	return c.Traced(spec.Process)
}

// noteTracer leaves word that a process of exec may trace others. It lasts as long as the container: the process can
// hand the capability on to its children, which outlive it. Commands that have not seen the mark, and are in the container
// unprotected, are waited for.
func (c *Container) noteTracer(spec *specs.Spec, process *specs.Process) error {
	if !canTrace(spec, process) || canTrace(spec, spec.Process) {
		return nil
	}
	if err := os.WriteFile(c.tracer(), nil, 0o600); err != nil {
		return fmt.Errorf("cannot note that a process of container %q may trace others: %w", c.ID, err)
	}
	lock, err := c.lockState(unix.LOCK_EX)
	if err != nil {
		return err
	}
	return lock.Close()
}

func (c *Container) tracer() string { return filepath.Join(c.dir, tracerFile) }

// AnyProcess stands for a process that is not known yet: it may have every capability.
func AnyProcess() *specs.Process {
	return &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_SYS_PTRACE"}}}
}

// hasNeighbours tells whether there are processes in the container's pid namespace of whom nothing is known.
func hasNeighbours(spec *specs.Spec) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.PIDNamespace && n.Path != ""
	})
}

// canTrace tells whether a process may look at processes of the host's user namespace.
func canTrace(spec *specs.Spec, process *specs.Process) bool {
	if slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }) {
		return false
	}
	masks, _ := capability.Sets(process.Capabilities)
	return (masks.Bounding|masks.Permitted|masks.Inheritable)&(1<<unix.CAP_SYS_PTRACE) != 0
}
