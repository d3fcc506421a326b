package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/kernelfile"
)

// limitDevices writes the device rules, all through two descriptors.
func (c *v1) limitDevices(rules []specs.LinuxDeviceCgroup, create bool) error {
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
	if create || state.allow {
		err = writeRules(dir, state)
	} else {
		err = changeRules(dir, state)
	}
	if errors.Is(err, unix.EPERM) {
		c.barred = ordinary()
	}
	if errors.Is(err, unix.EPERM) && (state.allow || c.barred) {
		return nil // a new cgroup has what its parent has, and more can't be had; who is not root is barred from mknod anyway
	}
	if err != nil {
		return fmt.Errorf("cannot set linux.resources.devices: %w", err)
	}
	return nil
}

func writeRules(dir string, state deviceRules) error {
	base, exceptions := "devices.deny", "devices.allow"
	if state.allow {
		base, exceptions = exceptions, base
	}
	if err := writeLines(filepath.Join(dir, base), []string{"a"}); err != nil || len(state.exceptions) == 0 {
		return err
	}
	return writeLines(filepath.Join(dir, exceptions), state.lines())
}

// changeRules leaves alone what is as it should be: the container's programs would get to feel that nothing is allowed
// for a moment, and cgroups of its own would go without for good.
func changeRules(dir string, wanted deviceRules) error {
	content, err := kernelfile.Read(filepath.Join(dir, "devices.list"))
	if err != nil {
		return err
	}
	if strings.HasPrefix(string(content), "a ") {
		return writeRules(dir, wanted)
	}
	present := strings.Split(strings.TrimSpace(string(content)), "\n")
	lines := wanted.lines()
	without := func(all, those []string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(line string) bool { return line == "" || slices.Contains(those, line) })
	}
	// What is denied comes first: a device that is in both has other letters now.
	return errors.Join(writeLines(filepath.Join(dir, "devices.deny"), without(present, lines)),
		writeLines(filepath.Join(dir, "devices.allow"), without(lines, present)))
}

// lines are the exceptions as the kernel takes and shows them.
func (r *deviceRules) lines() []string {
	var lines []string
	for _, d := range r.sorted() {
		lines = append(lines, d.String()+" "+r.exceptions[d].String())
	}
	return lines
}

// writeLines writes each line with a write of its own to one open file, as the kernel takes one rule a write.
func writeLines(path string, lines []string) error {
	fd, err := kernelfile.Open(path, unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, line := range lines {
		if _, err := unix.Write(fd, []byte(line)); err != nil {
			return fmt.Errorf("cannot write rule %q to %q: %w", line, path, err)
		}
	}
	return nil
}
