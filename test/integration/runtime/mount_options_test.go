package runtime_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// grant gives the container's program capabilities.
func (c *container) grant(names ...string) *container {
	c.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
	return c
}

// hostMount makes a tmpfs of the host's, with a directory "below", and takes it and all in it away with the test.
func hostMount(t *testing.T, flags uintptr) string {
	t.Helper()
	dir := t.TempDir()
	for _, err := range []error{
		unix.Mount("host", dir, "tmpfs", 0, ""), unix.Mount("", dir, "", unix.MS_PRIVATE, ""), os.Mkdir(filepath.Join(dir, "below"), 0o755),
		unix.Mount("", dir, "", flags|unix.MS_REMOUNT|unix.MS_BIND, ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		_ = unix.Unmount(filepath.Join(dir, "below"), unix.MNT_DETACH)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestAttributes shows each attribute of a mount with the options of the specification's table, and their recursive forms
// at a mount below. A file system that is bound brings all attributes along, so that the options that take one away are seen.
func TestAttributes(t *testing.T) {
	const all = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_NOSYMFOLLOW
	shown := map[string][2]string{ // with the option, without it
		"ro": {"ro"}, "nosuid": {"nosuid"}, "nodev": {"nodev"}, "noexec": {"noexec"}, "nodiratime": {"nodiratime"},
		"noatime": {"noatime"}, "nosymfollow": {"nosymfollow"}, "strictatime": {"", "relatime"}, "relatime": {"relatime"},
	}
	opposites := map[string]string{
		"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "diratime": "nodiratime", "atime": "noatime", "symfollow": "nosymfollow",
		"norelatime": "noatime", "nostrictatime": "noatime",
	}
	source, full := hostMount(t, 0), hostMount(t, all)
	for dir, flags := range map[string]uintptr{source: 0, full: all} {
		below := filepath.Join(dir, "below")
		if err := unix.Mount("below", below, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("", below, "", flags|unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	c := newContainer(t, "cat", "/proc/self/mountinfo")
	c.Spec.Root.Readonly = false
	for name := range shown {
		c.Spec.Mounts = append(c.Spec.Mounts, mount("/new/"+name, "tmpfs", "tmpfs", name), mount("/set/"+name, "bind", source, "bind", name),
			mount("/all/"+name, "bind", source, "rbind", "r"+name))
	}
	for name := range opposites {
		c.Spec.Mounts = append(c.Spec.Mounts, mount("/unset/"+name, "bind", full, "bind", name), mount("/none/"+name, "bind", full, "rbind", "r"+name))
	}
	info := c.output()
	attributes := func(point string) []string { return strings.Split(strings.Fields(mountLine(t, info, point))[5], ",") }
	check := func(point, attribute string, want bool) {
		t.Helper()
		got := attributes(point)
		if attribute != "" && strings.Contains(","+strings.Join(got, ",")+",", ","+attribute+",") != want {
			t.Errorf("%s has %q, want %q: %v", point, got, attribute, want)
		}
	}
	for name, texts := range shown {
		for _, point := range []string{"/new/" + name, "/set/" + name, "/all/" + name, "/all/" + name + "/below"} {
			check(point, texts[0], true)
			check(point, texts[1], false)
		}
	}
	for name, attribute := range opposites {
		check("/unset/"+name, attribute, strings.HasSuffix(name, "atime")) // see TestAccessTimesOfABind
		check("/none/"+name, attribute, false)
		check("/none/"+name+"/below", attribute, false)
	}
	check("/none/rw", "nosuid", true) // the recursive options change no more than they name
}

// TestAccessTimesOfABind: an option that asks for a kind of access times replaces all that the source has about them, and
// one that takes a kind away leaves what the source has, as the kernel does it and so runc and crun.
func TestAccessTimesOfABind(t *testing.T) {
	sources := map[string]string{
		"noatime": hostMount(t, unix.MS_NOATIME), "nodiratime": hostMount(t, unix.MS_NODIRATIME), "relatime": hostMount(t, 0),
		"both": hostMount(t, unix.MS_NOATIME|unix.MS_NODIRATIME),
	}
	c := newContainer(t, "cat", "/proc/self/mountinfo")
	c.Spec.Root.Readonly = false
	want := map[string]string{}
	for _, test := range []struct{ source, options, want string }{
		{"noatime", "norelatime", "rw,noatime"},
		{"noatime", "atime", "rw,noatime"},
		{"noatime", "nostrictatime", "rw,noatime"},
		{"noatime", "diratime", "rw,noatime"},
		{"noatime", "nodiratime", "rw,nodiratime,relatime"},
		{"noatime", "relatime", "rw,relatime"},
		{"noatime", "strictatime", "rw"},
		{"noatime", "ro", "ro,noatime"},
		{"nodiratime", "strictatime", "rw"},
		{"nodiratime", "noatime", "rw,noatime"},
		{"nodiratime", "diratime", "rw,nodiratime,relatime"},
		{"nodiratime", "noatime,nodiratime", "rw,noatime,nodiratime"},
		{"relatime", "noatime,atime", "rw,relatime"},
		{"relatime", "noatime,relatime", "rw,noatime"},
		{"relatime", "nodiratime,strictatime", "rw,nodiratime"},
		{"both", "atime,diratime", "rw,noatime,nodiratime"},
		{"both", "relatime", "rw,relatime"},
	} {
		point := "/" + test.source + "/" + test.options
		c.Spec.Mounts = append(c.Spec.Mounts, mount(point, "bind", sources[test.source], append(strings.Split(test.options, ","), "bind")...))
		want[point] = test.want
	}
	info := c.output()
	for point, attributes := range want {
		if got := strings.Fields(mountLine(t, info, point))[5]; got != attributes {
			t.Errorf("%s: %s, want %s", point, got, attributes)
		}
	}
}

// TestAttributesOfABind: what is bound without an attribute has those of its source, and else those that are asked for.
func TestAttributesOfABind(t *testing.T) {
	source := hostMount(t, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
	for options, want := range map[string]string{
		"bind": "rw,nosuid,nodev,noexec", "bind,rprivate": "rw,nosuid,nodev,noexec", "bind,ro": "ro,relatime", "bind,rw": "rw,relatime",
		"bind,nodev,ro": "ro,nodev,relatime", "bind,nosuid,suid": "rw,relatime",
	} {
		c := newContainer(t, "cat", "/proc/self/mountinfo")
		c.Spec.Root.Readonly = false
		c.Spec.Mounts = append(c.Spec.Mounts, mount("/mnt", "bind", source, strings.Split(options, ",")...))
		wantContains(t, mountLine(t, c.output(), "/mnt"), " "+want)
		if options != "bind,ro" {
			continue
		}
		mapUsers(t, c) // who may not take away what the host has given, but for what the kernel does not lock
		wantContains(t, mountLine(t, c.output(), "/mnt"), " ro,nosuid,nodev,noexec")
		c.Spec.Mounts[len(c.Spec.Mounts)-1].Source = hostMount(t, unix.MS_NODEV|unix.MS_NOSYMFOLLOW)
		if line := mountLine(t, c.output(), "/mnt"); strings.Contains(line, "nosymfollow") || !strings.Contains(line, " ro,nodev") {
			t.Errorf("nosymfollow of the host is kept: %s", line)
		}
	}
}

func TestTmpfs(t *testing.T) {
	for name, test := range map[string]struct {
		mounts       []specs.Mount
		script, want string
	}{
		"mode of what it hides": {[]specs.Mount{mount("/root", "tmpfs", "tmpfs")}, "stat -c %a /root", "700"},
		"its own mode":          {[]specs.Mount{mount("/root", "tmpfs", "tmpfs", "mode=751")}, "stat -c %a /root", "751"},
		"nothing to hide":       {[]specs.Mount{mount("/new", "tmpfs", "tmpfs")}, "stat -c %a /new", "1777"},
		"relative destination":  {[]specs.Mount{mount("srv/x", "tmpfs", "tmpfs")}, "stat -c %a /srv/x", "1777"},
		"read-only with more in it": {
			[]specs.Mount{mount("/srv", "tmpfs", "tmpfs", "ro"), mount("/srv/a/b", "tmpfs", "tmpfs")},
			"touch /srv/x 2>/dev/null || touch /srv/a/x 2>/dev/null || touch /srv/a/b/x && echo below", "below",
		},
		"in the order of the list": {[]specs.Mount{mount("/srv/a", "tmpfs", "tmpfs"), mount("/srv", "tmpfs", "tmpfs")}, "ls /srv | wc -l", "0"},
		"size and inodes": {
			[]specs.Mount{mount("/srv", "tmpfs", "tmpfs", "size=64k", "nr_inodes=4", "uid=5", "gid=6")},
			"cd /srv; head -c 100000 /dev/zero 2>/dev/null > a; wc -c < a; touch b c d 2>/dev/null || echo full; stat -c %u:%g .", "65536\nfull\n5:6",
		},
		"changed": {
			[]specs.Mount{mount("/srv", "tmpfs", "tmpfs", "nosuid", "size=64k"), mount("/srv", "tmpfs", "tmpfs", "remount", "noexec", "size=128k")},
			"df -k /srv | tail -1 | tr -s ' ' | cut -d' ' -f2; grep -c ' /srv ' /proc/self/mountinfo; grep ' /srv ' /proc/self/mountinfo | cut -d' ' -f6",
			"128\n1\nrw,noexec,relatime",
		},
		"changed as a mount": {
			[]specs.Mount{mount("/srv", "tmpfs", "tmpfs"), mount("/srv", "none", "none", "bind", "remount", "ro")},
			"grep ' /srv ' /proc/self/mountinfo | cut -d' ' -f6", "ro,relatime",
		},
		"flags of the file system": {
			[]specs.Mount{mount("/a", "tmpfs", "t", "sync"), mount("/b", "tmpfs", "t", "sync", "async"), mount("/c", "tmpfs", "t", "dirsync", "lazytime", "iversion", "silent", "loud")},
			"for f in /a /b /c; do grep \" $f \" /proc/self/mountinfo | sed 's/.* - tmpfs t //; s/,inode.*//'; done", "rw,sync\nrw\nrw,dirsync,lazytime",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t).shell(test.script)
			c.Spec.Root.Readonly = false
			if err := os.Chmod(filepath.Join(c.Rootfs, "root"), 0o700); err != nil {
				t.Fatal(err)
			}
			c.Spec.Mounts = append(c.Spec.Mounts, test.mounts...)
			wantEqual(t, strings.TrimSpace(c.output()), test.want)
		})
	}
}

func TestRemountRefuses(t *testing.T) {
	for want, m := range map[string]specs.Mount{
		`cannot set the attributes of the mount at "/srv"`:             mount("/srv", "tmpfs", "tmpfs", "remount", "ro"),
		`cannot open mount point "/new": no such file`:                 mount("/new", "tmpfs", "tmpfs", "remount", "ro"),
		`cannot set option "nonsense=1" of the mount at "/dev/shm"`:    mount("/dev/shm", "tmpfs", "tmpfs", "remount", "nonsense=1"),
		`cannot set option "nonsense" of the mount at "/srv"`:          mount("/srv", "tmpfs", "tmpfs", "nonsense"),
		`cannot mount "/srv": the kernel has no file system "nofs"`:    mount("/srv", "nofs", "nofs"),
		`only bind mounts can have id mappings, not type "tmpfs"`:      {Destination: "/srv", Type: "tmpfs", UIDMappings: mappings(0, 1, 1), GIDMappings: mappings(0, 1, 1)},
		`uidMappings and gidMappings must be given both or not at all`: {Destination: "/srv", Type: "bind", Source: "/", Options: []string{"bind"}, UIDMappings: mappings(0, 1, 1)},
	} {
		c := newContainer(t, "true")
		c.Spec.Root.Readonly = false
		c.Spec.Mounts = append(c.Spec.Mounts, m)
		if err := os.MkdirAll(filepath.Join(c.Rootfs, "srv"), 0o755); err != nil {
			t.Fatal(err)
		}
		c.refused(want)
	}
}

// TestDisks: what is not in memory is read-only as a whole, or the kernel could write to it all the same. A list of layers
// may be longer than what the kernel's newer calls take.
func TestDisks(t *testing.T) {
	dir := t.TempDir()
	var layers []string
	for i := range 12 {
		layer := filepath.Join(dir, fmt.Sprintf("a-layer-with-a-long-name-%d", i))
		if err := os.MkdirAll(filepath.Join(layer, strconv.Itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, layer)
	}
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	own := []string{"upperdir=" + filepath.Join(dir, "upper"), "workdir=" + filepath.Join(dir, "work")}
	c := newContainer(t).shell("ls /few | wc -l; ls /many | wc -l; cat /proc/self/mountinfo")
	c.Spec.Root.Readonly = false
	c.Spec.Mounts = append(c.Spec.Mounts, mount("/few", "overlay", "overlay", append(own, "lowerdir="+layers[0], "ro")...),
		mount("/many", "overlay", "overlay", "nosuid", "nodev", "noatime", "rslave", "lowerdir="+strings.Join(layers, ":")))
	out := c.output()
	wantEqual(t, strings.Join(strings.Fields(out)[:2], " "), "1 12")
	wantContains(t, mountLine(t, out, "/few"), " ro,relatime - overlay overlay ro,")
	wantContains(t, mountLine(t, out, "/many"), " rw,nosuid,nodev,noatime")
	c.Spec.Mounts = append(c.Spec.Mounts, mount("/bad", "overlay", "overlay", "lowerdir=/"+strings.Repeat("x", 300)))
	c.refused(`cannot mount file system "overlay" at "/bad"`)
}

// hostMountsOf returns the lines of the host's table of mounts that name one of the directories: others come and go.
func hostMountsOf(t *testing.T, dirs ...string) string {
	t.Helper()
	var found strings.Builder
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		if slices.ContainsFunc(dirs, func(dir string) bool { return strings.Contains(line, dir) }) {
			found.WriteString(strings.TrimSpace(line) + "\n")
		}
	}
	return found.String()
}

// TestRootPropagation mounts on the host and in the container, and looks who of the other side sees it. Nothing else of the
// container may reach the host.
func TestRootPropagation(t *testing.T) {
	for kind, test := range map[string]struct{ toHost, toContainer bool }{
		"": {false, true}, "rslave": {false, true}, "slave": {true, true}, "shared": {true, true}, "rshared": {true, true},
		"private": {true, true}, "rprivate": {false, false}, "unbindable": {false, true}, "runbindable": {false, false},
	} {
		t.Run(kind, func(t *testing.T) {
			dir := hostMount(t, 0)
			if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
				t.Fatal(err)
			}
			c := newContainer(t, "sleep", "1000").grant("CAP_SYS_ADMIN")
			before := hostMountsOf(t, dir, c.Rootfs)
			c.Spec.Root.Readonly = false
			c.Spec.Linux.RootfsPropagation = kind
			c.Spec.Mounts = append(c.Spec.Mounts, mount("/mnt", "bind", dir, "rbind", "rshared"), mount("/follows", "bind", dir, "rbind", "rslave"))
			c.start()
			wantEqual(t, hostMountsOf(t, dir, c.Rootfs), before)

			c.must("exec", c.ID, "mount", "-t", "tmpfs", "inside", "/mnt/below")
			reached := strings.Contains(readFile(t, "/proc/self/mountinfo"), dir+"/below ")
			wantEqual(t, reached, test.toHost)
			c.must("exec", c.ID, "umount", "/mnt/below")

			if err := unix.Mount("outside", filepath.Join(dir, "below"), "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			wantEqual(t, strings.Contains(c.must("exec", c.ID, "cat", "/proc/1/mountinfo"), "/follows/below "), test.toContainer)
			c.must("delete", "--force", c.ID)
			wantContains(t, readFile(t, "/proc/self/mountinfo"), dir+"/below ") // it went away with the container's copy if that was tied to it
		})
	}
}

func TestRootPropagationIsShown(t *testing.T) {
	for kind, want := range map[string]string{"": "", "private": "", "rslave": "", "shared": "shared:", "rshared": "shared:", "unbindable": "unbindable"} {
		c := newContainer(t, "cat", "/proc/self/mountinfo")
		c.Spec.Linux.RootfsPropagation = kind
		if got := mountLine(t, c.output(), "/"); want == "" && (strings.Contains(got, "shared:") || strings.Contains(got, "unbindable")) || !strings.Contains(got, want) {
			t.Errorf("%s: %s", kind, got)
		}
	}
}

// TestMountOnTheRoot: what is mounted on the root itself is the root.
func TestMountOnTheRoot(t *testing.T) {
	for name, options := range map[string][]string{"writable": {"bind"}, "read-only": {"rbind", "ro"}, "in memory": nil} {
		c := newContainer(t).shell("cat /proc/self/mountinfo; ls /; touch /x 2>/dev/null && echo written; true")
		source, kind := c.Rootfs, "bind"
		if options == nil {
			source, kind = "tmpfs", "tmpfs"
			options = []string{"ro", "mode=755"}
			c.Spec.Mounts = append(c.Spec.Mounts, mount("/bin", "bind", filepath.Join(c.Rootfs, "bin"), "bind"))
		}
		c.Spec.Root = &specs.Root{Path: t.TempDir()}
		c.Spec.Mounts = append([]specs.Mount{mount("/", kind, source, options...)}, c.Spec.Mounts...)
		out := c.output()
		if !strings.Contains(out, "\nbin\n") || !strings.Contains(out, "\nproc\n") || strings.HasSuffix(out, "written\n") != (name == "writable") {
			t.Errorf("%s: %s", name, out)
		}
		if left, err := os.ReadDir(c.Spec.Root.Path); err != nil || len(left) > 0 {
			t.Errorf("%s: the root below has %v, %v", name, left, err)
		}
	}
}

// TestCgroupMount: with a namespace for it the container's cgroup is the top of what it sees. Without one it finds itself
// where /proc/self/cgroup says on cgroup v2, and on v1 at the top as well, as with runc.
func TestCgroupMount(t *testing.T) {
	for _, namespaced := range []bool{true, false} {
		c := newContainer(t).shell("cat /proc/self/cgroup; find /sys/fs/cgroup -name cgroup.procs -maxdepth 6 | xargs grep -lx $$; touch /sys/fs/cgroup/x 2>/dev/null || echo read-only")
		c.Spec.Linux.Namespaces = withoutNamespace(c.Spec, specs.CgroupNamespace)
		if namespaced {
			c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		}
		out := c.output()
		want := "/sys/fs/cgroup/pids/cgroup.procs\n"
		if onV2(t) {
			want = "/sys/fs/cgroup" + c.Spec.Linux.CgroupsPath + "/cgroup.procs\n"
			if namespaced {
				want = "/sys/fs/cgroup/cgroup.procs\n"
			}
		}
		wantContains(t, out, want)
		wantContains(t, out, "read-only\n")
		wantEqual(t, strings.Contains(out, c.ID), !namespaced)
	}
}

// TestKernelFileSystems mounts the kernel's own file systems anew, with options of theirs.
func TestKernelFileSystems(t *testing.T) {
	c := newContainer(t, "cat", "/proc/self/mountinfo")
	c.Spec.Root.Readonly = false
	c.Spec.Mounts = append(c.Spec.Mounts, mount("/a/proc", "proc", "proc", "hidepid=2", "ro"), mount("/a/pts", "devpts", "devpts", "newinstance", "ptmxmode=0600", "max=7"),
		mount("/a/mqueue", "mqueue", "mqueue", "noexec"), mount("/a/sys", "sysfs", "sysfs", "rro", "nosuid"))
	info := c.output()
	for point, wants := range map[string][]string{
		"/a/proc": {" ro,", "hidepid=invisible"}, "/a/pts": {" rw,", "ptmxmode=600", "max=7"}, "/a/mqueue": {"noexec"}, "/a/sys": {" ro,nosuid"},
	} {
		for _, want := range wants {
			wantContains(t, mountLine(t, info, point), want)
		}
	}
}
