package attack_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ownDev is a container whose /dev is a directory that the attacker has prepared.
func ownDev(t testing.TB) (*container, string) {
	c := newContainer(t)
	c.without("/dev")
	return c, filepath.Join(c.Rootfs, "dev")
}

// TestNullOfTheImage is CVE-2025-31133: what masks files was bound from a /dev/null that was a link to something else.
func TestNullOfTheImage(t *testing.T) {
	h := newHost(t)
	script := "echo attack > /proc/sys/kernel/core_pattern; cat /proc/kcore | head -c 1 | wc -c"
	replacements := map[string]func(null string) error{
		"link to core_pattern":  func(null string) error { return os.Symlink("/proc/sys/kernel/core_pattern", null) },
		"link to sysrq-trigger": func(null string) error { return os.Symlink("../proc/sysrq-trigger", null) },
		"link to the host":      func(null string) error { return os.Symlink("/proc/1/root"+h.Dir+"/dev/null", null) },
		"link to nothing":       func(null string) error { return os.Symlink(h.Dir+"/made", null) },
		"file":                  func(null string) error { return os.WriteFile(null, []byte("mask"), 0o666) },
		"directory":             func(null string) error { return os.Mkdir(null, 0o755) },
		"pipe":                  func(null string) error { return unix.Mkfifo(null, 0o666) },
		"other device":          func(null string) error { return unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) },
		"block device":          func(null string) error { return unix.Mknod(null, unix.S_IFBLK|0o666, int(unix.Mkdev(1, 3))) },
	}
	for name, replace := range replacements {
		t.Run(name, func(t *testing.T) {
			c, dev := ownDev(t)
			if err := replace(filepath.Join(dev, "null")); err != nil {
				t.Fatal(err)
			}
			c.refused(c.shell(script).run(), `/dev/null"`)
			c.mount("/dev", "bind", dev, "bind") // then the runtime makes no devices
			c.refused(c.run(), `/dev/null"`)
			h.untouched(t)
		})
	}
}

// withTerminal runs the container with a terminal, whose other end it throws away. Like an engine it accepts one connection.
func (c *container) withTerminal(verb ...string) outcome {
	c.t.Helper()
	socket := filepath.Join(c.Bundle, "console")
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	done := make(chan struct{})
	defer close(done)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_ = listener.Close()
		defer func() { _ = conn.Close() }()
		<-done
	}()
	c.Spec.Process.Terminal = true
	c.writeConfig()
	return c.verb(append(append([]string{verb[0]}, "--console-socket", socket), verb[1:]...)...)
}

// TestTerminalOfTheImage is CVE-2025-52565: the terminal was looked up by a name in the image's /dev/pts, and bound to
// whatever was at /dev/console.
func TestTerminalOfTheImage(t *testing.T) {
	h := newHost(t)
	for _, target := range []string{"/proc/sys/kernel/core_pattern", "/proc/1/root" + h.Dir + "/dev/console", h.Dir + "/dev/console", upwards + "proc/sysrq-trigger", "/etc/passwd"} {
		c, _ := ownDev(t)
		c.mount("/dev/pts", "devpts", "devpts", "newinstance", "ptmxmode=0666", "mode=0620")
		c.link("dev/console", target)
		c.shell("true")
		c.refused(c.withTerminal("create", "--bundle", c.Bundle, c.ID), `"/dev/console": it is a symbolic link`)
		h.untouched(t)

		c, dev := ownDev(t)
		for _, name := range []string{"pts", "pts/ptmx", "pts/0", "ptmx"} {
			if name == "pts" {
				if err := os.Mkdir(filepath.Join(dev, name), 0o755); err != nil {
					t.Fatal(err)
				}
				continue
			}
			c.link("dev/"+name, target)
		}
		c.shell("true")
		r := c.withTerminal("create", "--bundle", c.Bundle, c.ID)
		if r.Status == 0 {
			t.Errorf("pts with links to %s: %+v", target, r)
		}
		c.tidy(r)
		h.untouched(t)
	}
	c, dev := ownDev(t)
	for name, number := range map[string]uint32{"pts/ptmx": 0, "pts/0": 1} {
		if err := os.MkdirAll(filepath.Join(dev, "pts"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mknod(filepath.Join(dev, name), unix.S_IFCHR|0o666, int(unix.Mkdev(4, number))); err != nil {
			t.Fatal(err)
		}
	}
	c.shell("true")
	if r := c.withTerminal("create", "--bundle", c.Bundle, c.ID); r.Status == 0 {
		t.Errorf("a console of the host in place of the terminal: %+v", r)
	}
	h.untouched(t)
}

// TestExecWithTheTerminalOfTheImage does it to exec, when a process in the container has replaced the terminals.
func TestExecWithTheTerminalOfTheImage(t *testing.T) {
	h := newHost(t)
	c := newContainer(t, "sleep", "1000").capable("SYS_ADMIN").start()
	script := `umount -l /dev/pts; rm -f /dev/ptmx; for n in ptmx 0 1; do ln -s /proc/sys/kernel/core_pattern /dev/pts/$n; ln -s /proc/sys/kernel/core_pattern /dev/$n; done; ls /dev/pts`
	c.must("exec", c.ID, "sh", "-c", script)
	if r := c.withTerminal("exec", "--tty", "--detach", c.ID, "sh", "-c", "true"); r.Status == 0 {
		t.Errorf("%+v", r)
	}
	h.untouched(t)
}

// TestRedirectedWrites is CVE-2025-52881: what the runtime writes to files of the kernel went elsewhere, as the image or
// a mount of the configuration had something else there.
func TestRedirectedWrites(t *testing.T) {
	h := newHost(t)
	fake := map[string]func(c *container){
		"file system in place of proc": func(c *container) { c.mount("/proc", "tmpfs", "tmpfs") },
		"directory of the host in place of proc": func(c *container) {
			c.mount("/proc", "bind", filepath.Join(h.Dir, "proc"), "rbind")
		},
		"files of the image in place of proc": func(c *container) {
			for _, name := range []string{"proc/sys/kernel/shmmax", "proc/self/attr/exec", "proc/self/oom_score_adj"} {
				c.link(name, "/proc/1/root"+h.Dir+"/"+name)
			}
		},
		"files in the image's proc": func(c *container) {
			for _, name := range []string{"proc/self/attr/exec", "proc/self/attr/apparmor/exec", "proc/sys/kernel/shmmax"} {
				path := filepath.Join(c.Rootfs, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o666)); err != nil {
					c.t.Fatal(err)
				}
			}
		},
		"links in the image's proc": func(c *container) {
			c.link("proc/sys", h.Dir+"/proc/sys")
			c.link("proc/self", upwards+h.Dir[1:]+"/proc/self")
		},
	}
	for name, prepare := range fake {
		for _, label := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				c := newContainer(t).shell("cat /proc/sys/kernel/shmmax; true")
				c.without("/proc")
				prepare(c)
				c.Spec.Linux.MaskedPaths, c.Spec.Linux.ReadonlyPaths = nil, nil
				score := 500
				c.Spec.Process.OOMScoreAdj = &score
				c.Spec.Linux.Sysctl = map[string]string{"kernel.shmmax": "1234567", "net.ipv4.ip_forward": "1"}
				if label {
					c.Spec.Process.ApparmorProfile = "attack"
				}
				r := c.run()
				if slices.ContainsFunc(c.Spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/proc" }) {
					c.refused(r, `"/proc": it is not of type`)
				}
				if label && r.Status == 0 {
					t.Errorf("a label that this kernel does not know: %+v", r)
				}
				c.tidy(r)
				h.untouched(t)
			})
		}
	}
}

// TestMountsOverProc: a volume of an attacker's would pass for the kernel's files. Those of lxcfs may.
func TestMountsOverProc(t *testing.T) {
	source := t.TempDir()
	file := filepath.Join(source, "file")
	if err := os.WriteFile(file, []byte("shown\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/proc/self", "/proc/sys", "/proc/1/attr", "/proc/net/dev", "/proc/../proc/sys/kernel", "proc/self/attr/exec"} {
		c := newContainer(t, "true")
		c.mount(name, "bind", source, "bind")
		c.refused(c.run(), "inside of /proc")
		c.Spec.Mounts[len(c.Spec.Mounts)-1] = specs.Mount{Destination: name, Type: "tmpfs", Source: "tmpfs"}
		c.refused(c.run(), "inside of /proc")
	}
	c := newContainer(t, "cat", "/proc/uptime")
	c.mount("/proc/uptime", "bind", file, "bind", "ro")
	if r := c.run(); r.Stdout != "shown\n" {
		t.Errorf("%+v", r)
	}
	c.without("/proc")
	c.mount("/proc", "bind", "/proc", "rbind")
	c.shell("cat /proc/self/comm")
	if r := c.run(); r.Stdout != "cat\n" {
		t.Errorf("the host's /proc: %+v", r)
	}
}

// TestSysctlsOfTheHost: a name with a way up in it is none of a namespace.
func TestSysctlsOfTheHost(t *testing.T) {
	h := newHost(t)
	c := newContainer(t, "true")
	for _, name := range []string{
		"net/../kernel/core_pattern", "net.//.kernel.core_pattern", "net.//.//.sysrq-trigger", "net/../../sysrq-trigger", "net.ipv4/../../kernel/core_pattern",
		"fs.mqueue.//.//.kernel.core_pattern", "kernel.core_pattern", "kernel/core_pattern", "kernel.msgmax/../core_pattern", "/kernel/core_pattern", "net..kernel", "vm.overcommit_memory",
	} {
		c.Spec.Linux.Sysctl = map[string]string{name: "|/attack"}
		c.refused(c.run(), "sysctl")
		h.untouched(t)
	}
}

// TestDevicesOfTheImage: a file of the image must not pass for a device, nor a link lead to one of the host's.
func TestDevicesOfTheImage(t *testing.T) {
	h := newHost(t)
	mode := os.FileMode(0o600)
	for name, target := range map[string]string{"random": h.Dir + "/" + h.Canary, "zero": "/proc/1/root" + h.Dir + "/made", "full": upwards + h.Dir[1:] + "/made"} {
		c, _ := ownDev(t)
		c.link("dev/"+name, target)
		c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/" + name + "2", Type: "c", Major: 1, Minor: 3, FileMode: &mode}}
		c.refused(c.shell("true").run(), "/dev/"+name)
		h.untouched(t)
	}
	c, dev := ownDev(t)
	for _, name := range []string{"fd", "stdin", "ptmx"} {
		if err := os.Symlink(h.Dir+"/"+name, filepath.Join(dev, name)); err != nil {
			t.Fatal(err)
		}
	}
	c.tidy(c.shell("true").run())
	h.untouched(t)
	if links := strings.Count(strings.Join(tree(t, dev), "\n"), "L"); links < 3 {
		t.Errorf("%d links are in the image's /dev", links)
	}
}

// TestCgroupsOfTheUser is CVE-2023-25809: the container of an ordinary user has the host's /sys, and below it the cgroups
// that are the user's.
func TestCgroupsOfTheUser(t *testing.T) {
	c := newContainer(t).rootless()
	c.without("/sys")
	c.mount("/sys", "none", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro")
	c.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro")
	c.Spec.Linux.Namespaces = slices.DeleteFunc(c.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	r := c.shell("cd /sys/fs/cgroup; for dir in . $(find . -maxdepth 2 -mindepth 1 -type d); do mkdir $dir/attack; done").run()
	if r.Stderr == "" {
		t.Errorf("%+v", r)
	}
	for line := range strings.Lines(r.Stderr) {
		if !strings.Contains(line, "Read-only file system") {
			t.Error(line)
		}
	}
}
