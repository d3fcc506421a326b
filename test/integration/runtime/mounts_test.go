package runtime_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

func mount(destination, kind, source string, options ...string) specs.Mount {
	return specs.Mount{Destination: destination, Type: kind, Source: source, Options: options}
}

// mountLine returns the line of the container's mountinfo about the mount point.
func mountLine(t testing.TB, mountinfo, point string) string {
	t.Helper()
	for line := range strings.Lines(mountinfo) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == point {
			return line
		}
	}
	t.Errorf("%s is no mount point:\n%s", point, mountinfo)
	return ""
}

func TestDefaultMounts(t *testing.T) {
	info := newContainer(t, "cat", "/proc/self/mountinfo").output()
	for point, wants := range map[string][]string{
		"/":           {" ro,"},
		"/proc":       {" - proc "},
		"/dev":        {"rw,nosuid ", " - tmpfs ", "mode=755", "size=65536k"},
		"/dev/pts":    {"nosuid,noexec", " - devpts ", "ptmxmode=666", "mode=620", "gid=5"},
		"/dev/shm":    {"nosuid,nodev,noexec", "size=65536k"},
		"/dev/mqueue": {"nosuid,nodev,noexec", " - mqueue "},
		"/sys":        {" ro,nosuid,nodev,noexec", " - sysfs "},
		"/proc/sys":   {" ro,"},
		"/proc/keys":  {" - tmpfs "},
	} {
		line := mountLine(t, info, point)
		for _, want := range wants {
			wantContains(t, line, want)
		}
	}
	if strings.Contains(info, " shared:") || strings.Contains(info, " master:") {
		t.Errorf("mounts are not private to the container:\n%s", info)
	}
}

func TestBinds(t *testing.T) {
	c := newContainer(t)
	source := filepath.Join(c.Bundle, "source")
	for _, dir := range []string{source, filepath.Join(source, "below")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("below", filepath.Join(source, "below"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(source, "below"), unix.MNT_DETACH) })
	file := filepath.Join(source, "file")
	c.Spec.Mounts = append(c.Spec.Mounts,
		mount("/rw", "bind", source, "bind"),
		mount("/ro", "none", source, "bind", "ro"),
		mount("/tree", "bind", source, "rbind", "ro"),
		mount("/rro", "bind", source, "rbind", "rro"),
		mount("/a/new/file", "bind", file, "bind", "ro"),
		mount("/options", "bind", source, "bind", "nosuid", "nodev", "noexec", "noatime"),
		mount("/relative", "bind", "source", "bind"),
	)
	c.Spec.Root.Readonly = false
	c.shell(`
		cat /a/new/file /relative/file
		touch /rw/new && echo rw
		touch /ro/new 2>/dev/null || echo ro
		grep -q ' /rw/below ' /proc/self/mountinfo || echo no submount
		touch /tree/below/x && echo submount is rw
		touch /rro/below/x 2>/dev/null || echo submount is ro
		touch /a/new/file 2>/dev/null || echo file is ro
		grep ' /options ' /proc/self/mountinfo`)
	out := c.output()
	wantContains(t, out, "content\ncontent\nrw\nro\nno submount\nsubmount is rw\nsubmount is ro\nfile is ro\n")
	wantContains(t, out, "nosuid,nodev,noexec,noatime")
}

func TestMountErrors(t *testing.T) {
	for _, test := range []struct {
		mount specs.Mount
		want  string
	}{
		{mount("/x", "bind", "/does/not/exist", "bind"), `"/does/not/exist"`},
		{mount("/x", "nonsensefs", "x"), `the kernel has no file system "nonsensefs"`},
		{mount("/x", "tmpfs", "tmpfs", "nonsense=1"), `option "nonsense=1" of the mount at "/x"`},
		{mount("/etc/passwd", "tmpfs", "tmpfs"), `"/etc/passwd"`},
	} {
		c := newContainer(t, "true")
		c.Spec.Root.Readonly = false
		c.Spec.Mounts = append(c.Spec.Mounts, test.mount)
		c.refused(test.want)
	}
}

func TestTmpfsOptions(t *testing.T) {
	c := newContainer(t).shell("df -k /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2; stat -c '%a %u' /scratch; grep ' /scratch ' /proc/self/mountinfo; grep ' /quiet ' /proc/self/mountinfo")
	c.Spec.Mounts = append(c.Spec.Mounts, mount("/scratch", "tmpfs", "tmpfs", "size=1024k", "mode=1700", "uid=5", "noexec"), mount("/quiet", "tmpfs", "tmpfs", "ro", "relatime"))
	c.Spec.Root.Readonly = false
	out := c.output()
	if !strings.HasPrefix(out, "1024\n1700 5\n") {
		t.Errorf("size, mode and owner: %q", out)
	}
	wantContains(t, out, " /scratch rw,noexec,")
	wantContains(t, out, "/quiet ro,relatime")
}

func TestPropagation(t *testing.T) {
	for option, want := range map[string]string{"rshared": " shared:", "rslave": " / /mnt ", "rprivate": " / /mnt ", "unbindable": " unbindable"} {
		c := newContainer(t).shell("grep ' /mnt ' /proc/self/mountinfo")
		c.Spec.Mounts = append(c.Spec.Mounts, mount("/mnt", "tmpfs", "tmpfs", option))
		c.Spec.Root.Readonly = false
		wantContains(t, c.output(), want)
	}
	c := newContainer(t).shell("grep ' / / ' /proc/self/mountinfo; head -1 /proc/self/mountinfo")
	c.Spec.Linux.RootfsPropagation = "shared"
	wantContains(t, c.output(), " shared:")
}

func TestRootIsWritableOrNot(t *testing.T) {
	for readOnly, want := range map[bool]string{true: "no\n", false: "yes\n"} {
		c := newContainer(t).shell("touch /new 2>/dev/null && echo yes || echo no")
		c.Spec.Root.Readonly = readOnly
		wantEqual(t, c.output(), want)
		_, err := os.Stat(filepath.Join(c.Rootfs, "new"))
		wantEqual(t, err == nil, !readOnly)
	}
}

func TestMaskedAndReadOnlyPaths(t *testing.T) {
	c := newContainer(t)
	for _, dir := range []string{"secret", "settings"} {
		if err := os.Mkdir(filepath.Join(c.Rootfs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.Rootfs, dir, "file"), []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.Spec.Root.Readonly = false
	c.Spec.Linux.MaskedPaths = []string{"/secret", "/etc/passwd", "/etc/os-release", "/not/there"}
	c.Spec.Linux.ReadonlyPaths = []string{"/settings", "/etc/group", "/neither/there"}
	c.Spec.Mounts = append(c.Spec.Mounts, mount("/settings/volume", "tmpfs", "tmpfs"))
	c.shell(`
		ls -A /secret | wc -l; wc -c < /etc/passwd; wc -c < /etc/os-release
		touch /secret/x 2>/dev/null || echo masked directory is read-only
		cat /settings/file; echo
		touch /settings/file 2>/dev/null || echo read-only
		echo x >> /etc/group 2>/dev/null || echo read-only file
		touch /etc/new /settings/volume/new && echo the rest is not`)
	wantEqual(t, c.output(), "0\n0\n0\nmasked directory is read-only\ncontent\nread-only\nread-only file\nthe rest is not\n")

	c.Spec.Linux.ReadonlyPaths = []string{"/"}
	wantEqual(t, strings.Contains(c.shell("touch /etc/new 2>&1; touch /dev/new && echo but /dev").output(), "Read-only file system\nbut /dev"), true)
}

// TestDeviceIsMounted: what the configuration mounts at the place of a device, be it one of every container, is there.
func TestDeviceIsMounted(t *testing.T) {
	c := newContainer(t)
	for path, device := range map[string]string{"/dev/random": "/dev/zero", "/dev/mine": "/dev/full"} {
		c.Spec.Mounts = append(c.Spec.Mounts, mount(path+"/.", "bind", device, "bind"))
	}
	c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 1, Minor: 5}}
	c.shell("stat -c %t:%T /dev/random /dev/mine")
	wantEqual(t, c.output(), "1:5\n1:7\n")
}

func TestDeviceFiles(t *testing.T) {
	c := newContainer(t)
	mode := os.FileMode(0o640)
	uid, gid := uint32(7), uint32(8)
	c.Spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/mine", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: &uid, GID: &gid},
		{Path: "/dev/deep/pipe", Type: "p"},
	}
	c.shell(`for d in null zero full random urandom tty; do stat -c '%n %a %t:%T' /dev/$d; done
		stat -c '%n %a %u:%g %t:%T' /dev/mine; stat -c '%F' /dev/deep/pipe
		for l in ptmx fd stdin; do readlink /dev/$l; done; echo x > /dev/null && echo writable`)
	wantEqual(t, c.output(), `/dev/null 666 1:3
/dev/zero 666 1:5
/dev/full 666 1:7
/dev/random 666 1:8
/dev/urandom 666 1:9
/dev/tty 666 5:0
/dev/mine 640 7:8 1:5
fifo
pts/ptmx
/proc/self/fd
/proc/self/fd/0
writable
`)
}

func TestWorkingDirectoryIsMade(t *testing.T) {
	c := newContainer(t, "pwd")
	c.Spec.Process.Cwd = "/a/b"
	c.Spec.Root.Readonly = false
	wantEqual(t, c.output(), "/a/b\n")
}

func TestNothingStaysMountedOnTheHost(t *testing.T) {
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	c := newContainer(t, "true")
	c.output()
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(after), c.Rootfs) {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
	}
}

// TestMountPointsWhileOthersRename: a ".." in a link on the way to a mount point is looked up anew when the kernel can't
// be sure of it, because something is renamed on the host meanwhile.
func TestMountPointsWhileOthersRename(t *testing.T) {
	dir := testenv.ShortDir(t)
	done := make(chan struct{})
	defer close(done)
	for _, name := range []string{"x", "y"} {
		go func() {
			path := filepath.Join(dir, name)
			_ = os.WriteFile(path, nil, 0o600)
			for {
				select {
				case <-done:
					return
				default:
					_ = os.Rename(path, path+".moved")
					_ = os.Rename(path+".moved", path)
				}
			}
		}()
	}
	c := newContainer(t).shell("cat " + strings.Repeat("/var/run/x.sock ", 20))
	if err := os.MkdirAll(filepath.Join(c.Rootfs, "var"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(c.Rootfs, "run"), 0o755), os.Symlink("../run", filepath.Join(c.Rootfs, "var/run"))); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(c.Bundle, "source")
	if err := os.WriteFile(source, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range 60 { // each looks it up once
		name := "/var/run/x.sock"
		if i > 0 {
			name = fmt.Sprintf("/var/run/%d.sock", i)
		}
		c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: name, Type: "bind", Source: source, Options: []string{"bind"}})
	}
	for range 20 {
		wantEqual(t, c.output(), strings.Repeat("x", 20))
	}
}

// TestManyMaskedPaths takes more operations than 16 bits can count.
func TestManyMaskedPaths(t *testing.T) {
	c := newContainer(t, "cat", "/masked")
	if err := os.WriteFile(filepath.Join(c.Rootfs, "masked"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range 9000 {
		c.Spec.Linux.MaskedPaths = append(c.Spec.Linux.MaskedPaths, fmt.Sprintf("/nonexistent/%d", i))
	}
	c.Spec.Linux.MaskedPaths = append(c.Spec.Linux.MaskedPaths, "/masked")
	wantEqual(t, c.output(), "")
}
