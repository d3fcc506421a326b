package attack_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// descriptors lists what a process has open.
func descriptors(t testing.TB, pid int) map[string]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]string{}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		open[entry.Name()] = target
	}
	return open
}

// leaky starts a verb of the runtime with descriptors of the host that nobody has asked to be passed on.
func (c *container) leaky(h *host, args ...string) outcome {
	c.t.Helper()
	command := c.command(args...)
	for _, name := range []string{h.Dir, "/", "/proc", filepath.Join(h.Dir, h.Canary), "/sys/fs/cgroup"} {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			c.t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), name)
		defer func() { _ = file.Close() }()
		command.ExtraFiles = append(command.ExtraFiles, file)
	}
	return c.execute(command)
}

// TestDescriptors: CVE-2024-21626 was one descriptor of the host's in the container's process. Here all are listed that
// the process has: while it waits for its start only the socket at which it waits may be among them, and then nothing.
func TestDescriptors(t *testing.T) {
	h := newHost(t)
	c := newContainer(t, "sleep", "1000")
	c.writeConfig()
	if r := c.leaky(h, "create", "--bundle", c.Bundle, c.ID); r.Status != 0 {
		t.Fatalf("%+v", r)
	}
	for fd, target := range descriptors(t, c.pid()) {
		if fd > "2" && !strings.HasPrefix(target, "socket:") {
			t.Errorf("waiting for its start the process has descriptor %s of %s", fd, target)
		}
	}
	c.must("start", c.ID)
	if r := c.leaky(h, "exec", "--detach", "--pid-file", filepath.Join(c.Bundle, "pid"), c.ID, "sleep", "1000"); r.Status != 0 {
		t.Fatalf("%+v", r)
	}
	var executed int
	content, err := os.ReadFile(filepath.Join(c.Bundle, "pid"))
	if err == nil {
		_, err = fmt.Sscan(string(content), &executed)
	}
	if err != nil {
		t.Fatal(err)
	}
	for what, pid := range map[string]int{"container's": c.pid(), "executed": executed} {
		for fd, target := range descriptors(t, pid) {
			if len(fd) > 1 || fd > "2" {
				t.Errorf("the %s process has descriptor %s of %s", what, fd, target)
			}
		}
	}
}

// TestWalkThroughDescriptors has a process in the container's pid namespace look for the host behind everything that the
// container's first process has, while that one waits for its start.
func TestWalkThroughDescriptors(t *testing.T) {
	h := newHost(t)
	for name, profile := range map[string]string{"without label": "", "with label": "unconfined"} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t).capable()
			c.attacker()
			c.Spec.Process.ApparmorProfile = profile // the process keeps a way to its file in the host's /proc for it
			c.writeConfig()
			if r := c.leaky(h, "create", "--bundle", c.Bundle, c.ID); r.Status != 0 {
				t.Fatalf("%+v", r)
			}
			walker := newContainer(t).capable()
			walker.attacker("descriptors", filepath.Join(h.Dir, h.Canary))
			walker.joins(c, specs.PIDNamespace)
			walker.writeConfig()
			if r := walker.leaky(h, "run", "--bundle", walker.Bundle, walker.ID); r.Status != 0 || r.Stdout != "0 found\n" {
				t.Errorf("%+v", r)
			}
		})
	}
	h.untouched(t)
}

// TestNothingIsInheritable: with CVE-2022-29162 every process had inheritable capabilities, which files could turn into
// permitted ones.
func TestNothingIsInheritable(t *testing.T) {
	c := newContainer(t, "sleep", "1000").capable("SYS_PTRACE").start()
	lines := "grep -e CapInh -e CapAmb /proc/self/status"
	const none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n"
	for _, args := range [][]string{
		{"exec", c.ID, "sh", "-c", lines},
		{"exec", "--cap", "CAP_NET_ADMIN", c.ID, "sh", "-c", lines},
		{"exec", "--user", "1000:1000", c.ID, "sh", "-c", lines},
		{"exec", "--cap", "CAP_NET_ADMIN", "--user", "1000:1000", c.ID, "sh", "-c", lines},
	} {
		if r := c.must(args...); r.Stdout != none {
			t.Errorf("%v: %q", args, r.Stdout)
		}
	}
	for _, uid := range []uint32{0, 1000} {
		c := newContainer(t).capable().shell(lines)
		c.Spec.Process.User = specs.User{UID: uid, GID: uid}
		if r := c.run(); r.Stdout != none {
			t.Errorf("user %d: %+v", uid, r)
		}
	}
	c = newContainer(t, "sleep", "1000").capable().start() // a program that had no hand in it
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid()))
	if err != nil || !strings.Contains(string(status), "CapInh:\t0000000000000000\n") {
		t.Errorf("%v\n%s", err, status)
	}
}

// TestWaitingProcessIsOutOfReach: between create and start the process has neither its filter nor no_new_privs yet.
func TestWaitingProcessIsOutOfReach(t *testing.T) {
	c := newContainer(t, "sleep", "1000").capable()
	c.create()
	attack := "for f in fd/0 exe cwd/bin environ maps; do cat /proc/1/$f > /dev/null 2>&1 && echo $f; done"
	if r := c.verb("exec", c.ID, "sh", "-c", attack); r.Stdout != "" {
		t.Errorf("%+v", r)
	}
	c.must("start", c.ID)
	if r := c.must("exec", c.ID, "readlink", "/proc/1/exe"); r.Stdout != "/bin/busybox\n" {
		t.Errorf("after start: %+v", r)
	}
}
