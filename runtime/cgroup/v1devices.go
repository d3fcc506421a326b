package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// limitDevices writes the device rules, all through two descriptors.
func (c *v1) limitDevices(rules []specs.LinuxDeviceCgroup) error {
	state, err := parseDevices(rules)
	if err != nil {
		return err
	}
	state.addDefaults()
	dir, ok := c.paths["devices"]
	if !ok {
		if state.allow && len(state.exceptions) == 0 {
			return nil
		}
		return unsupported("linux.resources.devices", "the host has no devices cgroup hierarchy")
	}
	base, exceptions := "devices.deny", "devices.allow"
	if state.allow {
		base, exceptions = exceptions, base
	}
	err = writeLines(filepath.Join(dir, base), []string{"a"})
	if err == nil && len(state.exceptions) > 0 {
		var lines []string
		for _, d := range state.sorted() {
			lines = append(lines, d.String()+" "+state.exceptions[d].String())
		}
		err = writeLines(filepath.Join(dir, exceptions), lines)
	}
	if errors.Is(err, unix.EPERM) && (state.allow || inUserNamespace()) {
		return nil // a new cgroup has what its parent has, and more can't be had; a user namespace bars mknod anyway
	}
	if err != nil {
		return fmt.Errorf("cannot set linux.resources.devices: %w", err)
	}
	return nil
}

// writeLines writes each line with a write of its own to one open file, as the kernel takes one rule a write.
func writeLines(path string, lines []string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, line := range lines {
		if _, err := file.WriteString(line); err != nil {
			return fmt.Errorf("rule %q: %w", line, err)
		}
	}
	return nil
}

// inUserNamespace tells whether the runtime runs in a user namespace of its own: the first one maps all ids.
func inUserNamespace() bool {
	content, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(content)), " ") != "0 0 4294967295"
}
