// Package resctrl puts containers into classes of service of Intel's Resource Director Technology: groups of processes
// with a share of the caches and of the memory's bandwidth, which are directories of the file system resctrl.
//
//	/sys/fs/resctrl/           the class of all who are in no other
//	  schemata  tasks
//	  CLASS/                   linux.intelRdt.closID, or else the container's ID
//	    schemata  tasks
//	    mon_groups/ID/tasks    what the container uses is counted here, with enableMonitoring
package resctrl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Group is a container's place.
type Group struct {
	Class   string `json:"class"`             // directory
	Monitor string `json:"monitor,omitempty"` // directory of the container's own, below the class
	Own     bool   `json:"own,omitempty"`     // the class goes away with the container
}

// Mounted returns where the file system is.
func Mounted() (string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("resctrl"))
	if err != nil {
		return "", fmt.Errorf("cannot list the host's mounts: %w", err)
	}
	if len(mounts) > 0 {
		return mounts[0].Mountpoint, nil
	}
	return "", errors.New("field linux.intelRdt: the file system resctrl is not mounted, at /sys/fs/resctrl or elsewhere")
}

// Create makes or finds the group that a configuration wants for the container with the ID. On failure nothing stays.
func Create(root, id string, wanted *specs.LinuxIntelRdt) (_ *Group, err error) {
	g := &Group{Class: filepath.Join(root, wanted.ClosID)}
	if wanted.ClosID == "" {
		g.Class, g.Own = filepath.Join(root, id), true
	}
	made, err := g.provide(wanted)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && made {
			_ = os.Remove(g.Class)
		}
	}()
	for _, line := range schemata(wanted) {
		if err := write(root, filepath.Join(g.Class, "schemata"), line); err != nil {
			return nil, err
		}
	}
	if wanted.EnableMonitoring {
		monitor := filepath.Join(g.Class, "mon_groups", id)
		if err := os.Mkdir(monitor, 0o755); err != nil {
			return nil, fmt.Errorf("cannot create the monitoring group of field linux.intelRdt: %w", err)
		}
		g.Monitor = monitor
	}
	return g, nil
}

// schemata are the lines to be written, in their order.
func schemata(wanted *specs.LinuxIntelRdt) []string {
	var lines []string
	for _, line := range append([]string{wanted.L3CacheSchema, wanted.MemBwSchema}, wanted.Schemata...) {
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// provide sees to it that the class is there, and is as the configuration says if others have made it.
func (g *Group) provide(wanted *specs.LinuxIntelRdt) (made bool, err error) {
	if g.Own || len(schemata(wanted)) > 0 {
		err := os.Mkdir(g.Class, 0o755)
		if err == nil {
			return true, nil
		}
		if g.Own || !errors.Is(err, fs.ErrExist) {
			return false, fmt.Errorf("cannot create the class of field linux.intelRdt: %w", err)
		}
	}
	has, err := os.ReadFile(filepath.Join(g.Class, "schemata"))
	if err != nil {
		return false, fmt.Errorf("cannot find the class of field linux.intelRdt.closID: %w", err)
	}
	for field, line := range map[string]string{"l3CacheSchema": wanted.L3CacheSchema, "memBwSchema": wanted.MemBwSchema} {
		if line != "" && !includes(string(has), line) {
			return false, fmt.Errorf("field linux.intelRdt.%s: the class %q exists and has no %q", field, wanted.ClosID, line)
		}
	}
	return false, nil
}

// includes tells whether lines such as "    L3:0=7ff;1=7ff" have all that one such line says.
func includes(lines, wanted string) bool {
	name, domains, _ := strings.Cut(strings.TrimSpace(wanted), ":")
	for line := range strings.Lines(lines) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if key != name {
			continue
		}
		has := parse(value)
		for id, bits := range parse(domains) {
			if there, ok := has[id]; !ok || there != bits {
				return false
			}
		}
		return true
	}
	return false
}

// parse reads ID=VALUE;…, where a value may have leading zeros.
func parse(domains string) map[string]string {
	values := map[string]string{}
	for domain := range strings.SplitSeq(domains, ";") {
		id, value, _ := strings.Cut(domain, "=")
		values[strings.TrimSpace(id)] = strings.ToLower(strings.TrimLeft(strings.TrimSpace(value), "0"))
	}
	return values
}

// write writes a line to a schemata file. Why the kernel refuses one is in another file.
func write(root, file, line string) error {
	err := os.WriteFile(file, []byte(line+"\n"), 0)
	if err == nil {
		return nil
	}
	if reason, readErr := os.ReadFile(filepath.Join(root, "info", "last_cmd_status")); readErr == nil {
		return fmt.Errorf("cannot set %q of field linux.intelRdt: %w: %s", line, err, strings.TrimSpace(string(reason)))
	}
	return fmt.Errorf("cannot set %q of field linux.intelRdt: %w", line, err)
}

// Add puts a process into the group. A nil group is none.
func (g *Group) Add(pid int) error {
	if g == nil {
		return nil
	}
	for _, dir := range []string{g.Class, g.Monitor} {
		if dir == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("cannot put the process into the class of field linux.intelRdt: %w", err)
		}
	}
	return nil
}

// Update changes what the class has.
func (g *Group) Update(root, l3Cache, memoryBandwidth string) error {
	for _, line := range schemata(&specs.LinuxIntelRdt{L3CacheSchema: l3Cache, MemBwSchema: memoryBandwidth}) {
		if err := write(root, filepath.Join(g.Class, "schemata"), line); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes what Create has made for the container alone. The kernel moves who is left to the class above.
func (g *Group) Delete() error {
	if g == nil {
		return nil
	}
	var errs []error
	if g.Monitor != "" {
		errs = append(errs, remove(g.Monitor))
	}
	if g.Own {
		errs = append(errs, remove(g.Class))
	}
	return errors.Join(errs...)
}

func remove(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the group of field linux.intelRdt: %w", err)
	}
	return nil
}
