package namespace

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/kernelfile"
	"github.com/berthd/berth/runtime/launch"
)

// HostUser returns what the host calls a user of the container, or 0 if no user of the host stands for it.
func HostUser(linux *specs.Linux, user uint32) (uint32, error) {
	i := slices.IndexFunc(linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	if i < 0 {
		return user, nil
	}
	mappings := linux.UIDMappings
	if path := linux.Namespaces[i].Path; path != "" {
		var err error
		if mappings, _, err = mappingsOf(path); err != nil {
			return 0, err
		}
	}
	for _, m := range mappings {
		if user >= m.ContainerID && user-m.ContainerID < m.Size {
			return m.HostID + user - m.ContainerID, nil
		}
	}
	return 0, nil
}

// checkJoinedUser refuses mappings that are not those of the user namespace that is joined.
func checkJoinedUser(linux *specs.Linux, path string) error {
	if len(linux.UIDMappings)+len(linux.GIDMappings) == 0 {
		return nil
	}
	users, groups, err := mappingsOf(path)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		field         string
		given, actual []specs.LinuxIDMapping
	}{{"linux.uidMappings", linux.UIDMappings, users}, {"linux.gidMappings", linux.GIDMappings, groups}} {
		if len(m.given) > 0 && !slices.Equal(sorted(m.given), sorted(m.actual)) {
			return fmt.Errorf("%s: they are not those of the user namespace %q that is joined", m.field, path)
		}
	}
	return nil
}

func sorted(mappings []specs.LinuxIDMapping) []specs.LinuxIDMapping {
	return slices.SortedFunc(slices.Values(mappings), func(a, b specs.LinuxIDMapping) int { return int(int64(a.ContainerID) - int64(b.ContainerID)) })
}

// mappingsOf returns the users and groups of a user namespace. The kernel tells them of processes alone, so that a
// child goes there for the moment.
func mappingsOf(path string) (users, groups []specs.LinuxIDMapping, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open the user namespace %q: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	program := launch.New()
	// To enter the namespace that one is in fails, and leads to the same mappings.
	program.Call("join", fmt.Sprintf("the user namespace %q", path), unix.SYS_SETNS, launch.Int(fd), launch.Int(unix.CLONE_NEWUSER)).Tolerate(unix.EINVAL)
	program.Report(launch.Ready)
	program.Wait()
	child, err := launch.Fork(program, launch.Birth{CgroupFD: -1})
	if err != nil {
		return nil, nil, err
	}
	defer func() { child.Kill(); child.Close() }()
	if _, err := child.Expect(launch.Ready); err != nil {
		return nil, nil, err
	}
	users, err = readMappings(fmt.Sprintf("/proc/%d/uid_map", child.Pid))
	groups, groupErr := readMappings(fmt.Sprintf("/proc/%d/gid_map", child.Pid))
	return users, groups, errors.Join(err, groupErr)
}

func readMappings(file string) ([]specs.LinuxIDMapping, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the mappings of a user namespace: %w", err)
	}
	var mappings []specs.LinuxIDMapping
	for line := range strings.Lines(string(content)) {
		var m specs.LinuxIDMapping
		if _, err := fmt.Sscan(line, &m.ContainerID, &m.HostID, &m.Size); err != nil {
			return nil, fmt.Errorf("cannot understand %q: %w", file, err)
		}
		mappings = append(mappings, m)
	}
	return mappings, nil
}

// InUsers tells whether the runtime is in a user namespace other than the host's first one, which maps every ID to itself.
func InUsers() bool {
	content, err := kernelfile.Read("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(content)), " ") != "0 0 4294967295"
}
