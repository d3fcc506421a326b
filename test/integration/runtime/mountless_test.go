package runtime_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// mountless is a container that shares the host's mount namespace.
func mountless(t *testing.T) *container {
	t.Helper()
	c := newContainer(t, "sleep", "1000")
	c.Spec.Linux.Namespaces = withoutNamespace(c.Spec, specs.MountNamespace)
	c.Spec.Linux.MaskedPaths, c.Spec.Linux.ReadonlyPaths = nil, nil
	return c
}

// TestWithoutMountNamespace: the container has its root and its mounts, and the host sees none of them.
func TestWithoutMountNamespace(t *testing.T) {
	c := mountless(t)
	c.Spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/touch", Args: []string{"touch", "/dev/hooked"}}}}
	dir := hostMount(t, 0)
	c.Spec.Mounts = append(c.Spec.Mounts, mount("/data", "bind", dir, "rbind", "rslave"))
	if err := os.Mkdir(filepath.Join(c.Rootfs, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := hostMountsOf(t, dir, c.Rootfs)
	c.start()
	pid := strconv.Itoa(c.state().Pid)
	wantEqual(t, namespaceOf(t, pid, "mnt"), namespaceOf(t, "self", "mnt"))
	wantEqual(t, hostMountsOf(t, dir, c.Rootfs), before)
	wantEqual(t, c.must("exec", c.ID, "cat", "/proc/1/comm"), "sleep\n")
	wantEqual(t, c.must("exec", c.ID, "sh", "-c", "ls / | grep -c ^work$; ls /dev/hooked; echo x >/dev/null && cat /proc/self/comm; ls /data; touch /x 2>/dev/null || echo read-only"), "0\n/dev/hooked\ncat\nbelow\nread-only\n")
	c.must("delete", "--force", c.ID)
	c.gone()
	for _, name := range []string{"proc", "dev", "sys"} {
		if entries, err := os.ReadDir(filepath.Join(c.Rootfs, name)); err != nil || len(entries) > 0 {
			t.Errorf("%s of the root file system has %v, %v", name, entries, err)
		}
	}
}

func TestMountlessRefuses(t *testing.T) {
	c := mountless(t)
	c.Spec.Linux.MaskedPaths = []string{"/proc/kcore"}
	c.refused("field linux.maskedPaths: it needs a mount namespace")
}

// TestForeignMountNamespace: a joined mount namespace, and one that a new user namespace could not mount in.
func TestForeignMountNamespace(t *testing.T) {
	holder := exec.Command("unshare", "--mount", "sleep", "1000")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	path := filepath.Join("/proc", strconv.Itoa(holder.Process.Pid), "ns", "mnt")
	testenv.WaitFor(t, "a mount namespace", func() bool {
		there, err := os.Readlink(path)
		return err == nil && there != namespaceOf(t, "self", "mnt")
	})
	joined := func(c *container) *container {
		c.Spec.Linux.Namespaces = append(withoutNamespace(c.Spec, specs.MountNamespace), specs.LinuxNamespace{Type: specs.MountNamespace, Path: path})
		return c
	}
	c := joined(newContainer(t, "readlink", "/proc/self/ns/mnt"))
	wantEqual(t, c.output(), namespaceOf(t, strconv.Itoa(holder.Process.Pid), "mnt")+"\n")

	mapped := joined(newContainer(t, "true"))
	mapUsers(t, mapped)
	mapped.refused("the root of a new user namespace may not mount in the mount namespace")
}
