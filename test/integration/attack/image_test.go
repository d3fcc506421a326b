package attack_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var upwards = strings.Repeat("../", 20)

// leads are ways to write a link to a directory of the host.
func leads(h *host) map[string]string {
	return map[string]string{
		"absolute": h.Dir, "relative": upwards + h.Dir[1:], "through proc": "/proc/1/root" + h.Dir, "cwd": "/proc/self/cwd",
	}
}

// TestLinksInPlaceOfDirectories: CVE-2019-19921, 2023-27561, 2023-28642, 2024-45310 and the link in place of /dev of
// 2026 are images in which a directory that the runtime mounts on, makes files in or writes to is a link.
func TestLinksInPlaceOfDirectories(t *testing.T) {
	h := newHost(t)
	// What holds the kernel's own files must be a directory: elsewhere it would be out of reach of what masks it.
	refused := []string{"proc", "sys", "dev"}
	for _, name := range append([]string{"etc", "mnt", "mnt/sub", "home", "dev/pts"}, refused...) {
		for way, target := range leads(h) {
			t.Run(name+" "+way, func(t *testing.T) {
				c := linked(t, h, name, target)
				r := c.run()
				h.untouched(t)
				if strings.Contains(r.Stdout, h.Canary) {
					t.Errorf("the host's directory can be seen: %+v", r)
				}
				if slices.Contains(refused, name) {
					c.refused(r, `"/`+name+`"`)
				}
				c.tidy(r)
			})
		}
	}
	peers(t, func(t testing.TB, runtime string) string {
		var said []string
		for _, name := range refused {
			c := linked(t, h, name, h.Dir)
			c.Runtime, c.Spec.Version = runtime, "1.0.2" // Debian's crun knows no later one
			r := c.run()
			said = append(said, name+": "+short(r)+" changed "+strings.Join(h.changes(t), ", "))
		}
		return strings.Join(said, "\n")
	})
}

// linked is a container with as many mounts, devices and files to make as there can be, in whose image a name is a link.
func linked(t testing.TB, h *host, name, target string) *container {
	c := newContainer(t).capable()
	c.shell(h.search() + "; ls -a /mnt/ /etc/ /home/ /dev/; true")
	source := t.TempDir()
	file := filepath.Join(source, "file")
	if err := os.WriteFile(file, []byte("bound"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.mount("/mnt/sub/deep/er", "tmpfs", "tmpfs")
	c.mount("/mnt/dir", "bind", source, "bind", "ro")
	c.mount("/etc/hosts", "bind", file, "bind")
	c.mount("/home/copy", "tmpfs", "tmpfs", "tmpcopyup")
	c.Spec.Process.Cwd = "/home/cwd/deep"
	mode, owner := os.FileMode(0o666), uint32(7)
	c.Spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/attack/null", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &owner, GID: &owner},
		{Path: "/mnt/pipe", Type: "p", FileMode: &mode, UID: &owner},
	}
	c.Spec.Linux.Sysctl = map[string]string{"kernel.shmmax": "1234567"}
	if name == "dev/pts" {
		c.without("/dev")
	}
	c.link(name, target)
	return c
}

// TestLinksInUserNamespaces is the same for containers whose devices are bound, to empty files that the runtime makes:
// CVE-2024-45310 made them on the host.
func TestLinksInUserNamespaces(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"etc", "mnt", "dev", "proc"} {
		t.Run(name, func(t *testing.T) {
			c := linked(t, h, name, h.Dir)
			c.Spec.Linux.Devices = c.Spec.Linux.Devices[:1]
			c.Spec.Linux.Devices[0].Path = "/dev/null"
			c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 65536}}
			c.Spec.Linux.UIDMappings, c.Spec.Linux.GIDMappings = ids, ids
			r := c.run()
			c.tidy(r)
			h.untouched(t)
			if refused := name == "dev" || name == "proc"; (r.Status != 0) != refused {
				t.Errorf("a link in place of /%s: %+v", name, r)
			}
		})
	}
}

// TestDanglingLinks: a mount point that is a link to nothing is made where the link leads to inside the root, or not at
// all if that is beyond what can be known before.
func TestDanglingLinks(t *testing.T) {
	h := newHost(t)
	for target, works := range map[string]bool{
		h.Dir + "/made": true, upwards + h.Dir[1:] + "/made/deep": true, "../../made": true, "/proc/self/root" + h.Dir + "/made": false, "/mnt/sub": false,
	} {
		for _, name := range []string{"mnt/sub", "etc/hosts"} {
			c := linked(t, h, name, target)
			r := c.run()
			if target == "/mnt/sub" && name == "etc/hosts" {
				continue // no more than a directory in place of a file
			}
			if (r.Status == 0) != works {
				t.Errorf("%s is a link to %s: %+v", name, target, r)
			}
			c.tidy(r)
			h.untouched(t)
			inside := filepath.Join(c.Rootfs, filepath.Clean("/mnt/"+target))
			if filepath.IsAbs(target) {
				inside = filepath.Join(c.Rootfs, target)
			}
			if _, err := os.Lstat(inside); works && err != nil {
				t.Errorf("%s is a link to %s, which was not made inside: %v", name, target, err)
			}
		}
	}
}

// TestPasswordFile: the home directory is looked up in the container's file, be it the image's or that of a volume, and not
// in one that a link in its place names, be it the host's or one that never ends.
func TestPasswordFile(t *testing.T) {
	h := newHost(t)
	c := newContainer(t).shell("echo $HOME")
	for _, target := range []string{h.Dir + "/etc/passwd", upwards + h.Dir[1:] + "/etc/passwd", "/proc/1/root" + h.Dir + "/etc/passwd", "/dev/zero", "/dev/stdin"} {
		c.link("etc/passwd", target)
		if r := c.run(); r.Status != 0 || r.Stdout != "/\n" {
			t.Errorf("passwd as a link to %s: %+v", target, r)
		}
		volume := t.TempDir()
		if err := os.Symlink(target, filepath.Join(volume, "passwd")); err != nil {
			t.Fatal(err)
		}
		own := newContainer(t).shell("echo $HOME")
		own.mount("/etc", "bind", volume, "bind")
		if r := own.run(); r.Status != 0 || r.Stdout != "/\n" {
			t.Errorf("passwd of a volume as a link to %s: %+v", target, r)
		}
		h.untouched(t)
	}
}

// TestWorkingDirectoryOfTheHost: CVE-2024-21626 entered the host's directories through a descriptor of the runtime's.
func TestWorkingDirectoryOfTheHost(t *testing.T) {
	h := newHost(t)
	leak, err := os.Open(h.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = leak.Close() }()
	running := newContainer(t, "sleep", "1000").start()
	c := newContainer(t, "ls", "-a")
	for _, cwd := range []string{
		"/proc/self/fd/3", "/proc/self/fd/4", "/proc/self/fd/5", "/proc/self/fd/6", "/proc/self/fd/7", "/proc/self/fd/8",
		"/proc/self/fd/3/..", "/proc/1/cwd/..", "/proc/thread-self/fd/3",
	} {
		c.link("home", cwd)
		for _, dir := range []string{cwd, "/home"} {
			c.Spec.Process.Cwd = dir
			c.writeConfig()
			command := c.command("run", "--bundle", c.Bundle, c.ID)
			command.ExtraFiles = []*os.File{leak, leak, leak}
			r := c.execute(command)
			if strings.Contains(r.Stdout, h.Canary) || r.Status == 0 && strings.Contains(cwd, "/fd/") {
				t.Errorf("%s: %+v", cwd, r)
			}
			c.tidy(r)
		}
		command := running.command("exec", "--cwd", cwd, running.ID, "ls", "-a")
		command.ExtraFiles = []*os.File{leak, leak, leak}
		if r := running.execute(command); strings.Contains(r.Stdout, h.Canary) || r.Status == 0 && strings.Contains(cwd, "/fd/") {
			t.Errorf("exec in %s: %+v", cwd, r)
		}
	}
	h.untouched(t)
}

// TestPasswordDevice: to open some devices does something, be it that the host restarts when nobody writes to its watchdog
// from then on. The runtime opens no file of an image but regular ones, and those of the kernel have another way of
// reading: the host's log is gone when it has been read.
func TestPasswordDevice(t *testing.T) {
	c := newContainer(t).shell("echo $HOME; sleep 1000")
	passwd := filepath.Join(c.Rootfs, "etc/passwd")
	for name, replace := range map[string]func() error{
		"device": func() error { return unix.Mknod(passwd, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		"pipe":   func() error { return unix.Mkfifo(passwd, 0o666) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := errors.Join(os.RemoveAll(passwd), replace()); err != nil {
				t.Fatal(err)
			}
			opened := watchOpens(t, passwd)
			c.start()
			c.must("exec", c.ID, "true")
			c.must("delete", "--force", c.ID)
			if opened() {
				t.Error("it has been opened")
			}
		})
	}
	t.Run("log", func(t *testing.T) {
		c.link("etc/passwd", "/proc/kmsg")
		before := unread(t)
		if before == 0 {
			t.Skip("somebody has read the kernel's log")
		}
		c.start()
		c.must("exec", c.ID, "true")
		if after := unread(t); after < before/2 { // some always go, to make room for new ones
			t.Errorf("%d of %d bytes of the kernel's log are left", after, before)
		}
	})
}

// watchOpens returns a function that tells whether a file has been opened meanwhile.
func watchOpens(t testing.TB, path string) func() bool {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	return func() bool {
		n, _ := unix.Read(fd, make([]byte, 4096))
		return n > 0
	}
}

// unread is how much of the kernel's log nobody has read.
func unread(t testing.TB) int {
	t.Helper()
	const sizeUnread = 9
	n, err := unix.Klogctl(sizeUnread, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
