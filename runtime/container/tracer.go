package container

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/capability"
)

// tracerFile is in the directory of a container in which exec has started a process that may trace others.
const tracerFile = "tracer"

// protect keeps the runtime's binary from those who may look at the runtime while it is in the container.
func protect(spec *specs.Spec, how func() error) error {
	if hasNeighbours(spec) || canTrace(spec, spec.Process) {
		return how()
	}
	return nil
}

// protectFrom is protect for an exec of a process. The next one will know of it.
func (c *Container) protectFrom(spec *specs.Spec, process *specs.Process, how func() error) error {
	marker := filepath.Join(c.dir, tracerFile)
	if canTrace(spec, process) && !canTrace(spec, spec.Process) {
		if err := os.WriteFile(marker, nil, 0o600); err != nil {
			return fmt.Errorf("cannot note that a process of container %q may trace others: %w", c.ID, err)
		}
	}
	if unix.Access(marker, unix.F_OK) == nil {
		return how()
	}
	return protect(spec, how)
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
