package process

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// killSurvivors kills the processes that the init process leaves behind where the container has no pid namespace of its
// own, with which the kernel would have ended them. Clients wait for the end of the output, which they could hold.
func (c *Container) killSurvivors() {
	group := c.Cgroup()
	if pids, err := group.Pids(); err != nil || len(pids) == 0 || ownsPids(c.Bundle) {
		return
	}
	_ = group.Kill() // it may be gone by now, or not the container's own
}

// ownsPids reports whether the container of a bundle has a pid namespace of its own.
func ownsPids(bundle string) bool {
	var spec struct {
		Linux struct{ Namespaces []specs.LinuxNamespace }
	}
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil || json.Unmarshal(data, &spec) != nil {
		return true
	}
	for _, namespace := range spec.Linux.Namespaces {
		if namespace.Type == specs.PIDNamespace {
			return namespace.Path == ""
		}
	}
	return false
}
