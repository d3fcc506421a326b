package runtime_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// seesItsCgroup gives the container a cgroup namespace and a mount of its cgroup that it may write to.
func seesItsCgroup(t *testing.T, c *container) {
	t.Helper()
	if !onV2(t) {
		t.Skip("cgroups of v1 are never delegated")
	}
	c.Spec.Linux.Namespaces = append(withoutNamespace(c.Spec, specs.CgroupNamespace), specs.LinuxNamespace{Type: specs.CgroupNamespace})
	for i, m := range c.Spec.Mounts {
		if m.Type == "cgroup" {
			c.Spec.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(option string) bool { return option == "ro" })
		}
	}
}

// TestDelegatedCgroup: the container's user owns the cgroup where it sees nothing but this, and may write there.
func TestDelegatedCgroup(t *testing.T) {
	const mapped = 231072
	first := newContainer(t, "sleep", "1000")
	mapUsers(t, first)
	first.start()
	users := filepath.Join("/proc", strconv.Itoa(first.state().Pid), "ns/user")
	for name, test := range map[string]struct {
		change func(c *container)
		owner  int
	}{
		"new user namespace":    {func(c *container) { mapUsers(t, c) }, mapped},
		"another user in it":    {func(c *container) { mapUsers(t, c); c.Spec.Process.User.UID = 5 }, mapped + 5},
		"joined user namespace": {func(c *container) { mapUsers(t, c); c.join(specs.UserNamespace, users) }, mapped},
		"another user":          {func(c *container) { c.Spec.Process.User.UID = 1000 }, 1000},
		"root":                  {func(*container) {}, 0},
		"read-only":             {func(c *container) { mapUsers(t, c); c.Spec.Mounts = testenv.ExampleSpec(t).Mounts }, 0},
		"cgroups of the host": {func(c *container) {
			mapUsers(t, c)
			c.Spec.Linux.Namespaces = withoutNamespace(c.Spec, specs.CgroupNamespace)
		}, 0},
		"the namespace of other": {func(c *container) {
			c.Spec.Process.User.UID = 1000
			c.join(specs.CgroupNamespace, "/proc/self/ns/cgroup")
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "sleep", "1000")
			seesItsCgroup(t, c)
			test.change(c)
			c.start()
			dir := filepath.Join("/sys/fs/cgroup", c.Spec.Linux.CgroupsPath)
			delegated := append(strings.Fields(readFile(t, "/sys/kernel/cgroup/delegate")), ".")
			for _, file := range append(delegated, "memory.max", "cgroup.freeze") {
				info, err := os.Stat(filepath.Join(dir, file))
				if os.IsNotExist(err) {
					continue
				}
				want := 0
				if slices.Contains(delegated, file) {
					want = test.owner
				}
				if got := info.Sys().(*syscall.Stat_t).Uid; err != nil || int(got) != want {
					t.Errorf("%s belongs to %d, %v, want %d", file, got, err, want)
				}
			}
			c.must("delete", "--force", c.ID)
			c.gone()
		})
	}
}

// join makes the container enter a namespace in place of having its own.
func (c *container) join(kind specs.LinuxNamespaceType, path string) {
	c.Spec.Linux.Namespaces = append(withoutNamespace(c.Spec, kind), specs.LinuxNamespace{Type: kind, Path: path})
}

// nest makes a cgroup below its own, moves there and hands controllers on, as systemd does in a container.
const nest = "cd /sys/fs/cgroup && mkdir nest && echo 1 > nest/cgroup.procs && echo '+memory +pids' > cgroup.subtree_control"

// TestNestedCgroups: what the owner may do, and what not. No process may be in a cgroup that hands controllers on, and so
// exec goes where the first one is.
func TestNestedCgroups(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("user namespace %v", own), func(t *testing.T) {
			c := newContainer(t).shell(nest + " && echo 1048576 > nest/memory.high; echo max > memory.max || echo denied > /dev/shm/limit; sleep 1000")
			if own {
				mapUsers(t, c)
			}
			seesItsCgroup(t, c)
			c.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: pointer(int64(64 << 20))}
			c.start()
			testenv.WaitFor(t, "the cgroup below", func() bool { return c.cgroupFile("", "cgroup.subtree_control") != "" })
			wantEqual(t, c.must("exec", c.ID, "grep", "^0:", "/proc/self/cgroup"), "0::/nest\n")
			wantEqual(t, c.must("exec", c.ID, "cat", "/sys/fs/cgroup/nest/memory.high"), "1048576\n")
			if own {
				wantEqual(t, c.must("exec", c.ID, "cat", "/dev/shm/limit"), "denied\n")
				wantEqual(t, c.cgroupFile("", "memory.max"), "67108864")
			}
			c.must("pause", c.ID)
			c.wantStatus("paused")
			c.must("resume", c.ID)
			c.must("delete", "--force", c.ID)
			c.gone()
		})
	}
}
