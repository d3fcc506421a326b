package attack_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestProcOfTheNeighbour is CVE-2025-52881 by a neighbour: a container joins the mount namespace of one that has put
// files of its own in place of those of /proc.
func TestProcOfTheNeighbour(t *testing.T) {
	h := newHost(t)
	const file = "/proc/sys/kernel/shmmax"
	neighbour := newContainer(t).capable("SYS_ADMIN")
	neighbour.shell("mkdir -p /inner/bin && cp /bin/busybox /inner/bin && umount -l /proc; mount -t tmpfs none /proc && mkdir -p /proc/sys/kernel && echo fake > " + file + " && touch /ready; exec sleep 1000")
	neighbour.Spec.Linux.MaskedPaths, neighbour.Spec.Linux.ReadonlyPaths = nil, nil
	neighbour.start()
	neighbour.await("ready")
	fake, err := os.Open(fmt.Sprintf("/proc/%d/root%s", neighbour.pid(), file)) // which is lost when the root changes
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fake.Close() }()

	c := newContainer(t, "/bin/busybox", "cat", file)
	c.without("/sys/fs/cgroup") // which is another there
	c.Spec.Root.Path = "/inner" // in that namespace
	c.joins(neighbour, specs.MountNamespace)
	c.Spec.Linux.Sysctl = map[string]string{"kernel.shmmax": "1234567"}
	if r := c.run(); r.Stdout != "1234567\n" {
		t.Errorf("%+v", r)
	}
	content := make([]byte, 64)
	if n, err := fake.ReadAt(content, 0); string(content[:n]) != "fake\n" {
		t.Errorf("the neighbour's file has been written to: %q (%v)", content[:n], err)
	}
	h.untouched(t)
}

// await waits until there is a file in the image.
func (c *container) await(name string) {
	c.t.Helper()
	c.must("exec", c.ID, "sh", "-c", "until test -e /"+name+"; do :; done")
	if _, err := os.Stat(filepath.Join(c.Rootfs, name)); err != nil {
		c.t.Fatal(err)
	}
}

// joins lets the container live in a namespace of another.
func (c *container) joins(other *container, kind specs.LinuxNamespaceType) {
	c.t.Helper()
	file := map[specs.LinuxNamespaceType]string{specs.PIDNamespace: "pid", specs.MountNamespace: "mnt", specs.UserNamespace: "user"}[kind]
	path := fmt.Sprintf("/proc/%d/ns/%s", other.pid(), file)
	all := c.Spec.Linux.Namespaces
	i := slices.IndexFunc(all, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	if i < 0 {
		all, i = append(all, specs.LinuxNamespace{Type: kind}), len(all)
	}
	all[i].Path = path
	c.Spec.Linux.Namespaces = all
}
