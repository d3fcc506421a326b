package namespace

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// WriteMappings gives the user namespace of a waiting process its users and groups.
func WriteMappings(pid int, linux *specs.Linux) error {
	if len(linux.UIDMappings) == 0 || len(linux.GIDMappings) == 0 {
		return errors.New("linux.uidMappings and linux.gidMappings must not be empty if there is a new user namespace")
	}
	rootless := os.Geteuid() != 0
	if rootless && single(linux.GIDMappings) {
		// Without help of newgidmap the kernel demands that groups can't be dropped.
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/setgroups", pid), []byte("deny"), 0); err != nil {
			return fmt.Errorf("cannot deny setgroups in the user namespace: %w", err)
		}
	}
	maps := []struct {
		file, helper, field string
		mappings            []specs.LinuxIDMapping
	}{
		{"gid_map", "newgidmap", "linux.gidMappings", linux.GIDMappings},
		{"uid_map", "newuidmap", "linux.uidMappings", linux.UIDMappings},
	}
	for _, m := range maps {
		err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, m.file), []byte(Format(m.mappings)), 0)
		if err != nil && rootless {
			err = runHelper(m.helper, pid, m.mappings)
		}
		if err != nil {
			return fmt.Errorf("cannot apply %s: %w", m.field, err)
		}
	}
	return nil
}

func single(mappings []specs.LinuxIDMapping) bool { return len(mappings) == 1 && mappings[0].Size == 1 }

// Format writes mappings as the kernel wants them.
func Format(mappings []specs.LinuxIDMapping) string {
	var lines strings.Builder
	for _, m := range mappings {
		fmt.Fprintf(&lines, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return lines.String()
}

// runHelper asks the set-user-id programs of the shadow suite, which know what an ordinary user may map.
func runHelper(name string, pid int, mappings []specs.LinuxIDMapping) error {
	args := append([]string{strconv.Itoa(pid)}, strings.Fields(Format(mappings))...)
	output, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(output)))
	}
	return nil
}
