package runtime_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestCopyUp(t *testing.T) {
	c := newContainer(t).shell(`cd /data; cat file dir/inner link; stat -c '%a %u:%g' file dir/inner .; echo changed > file; cat file; touch /other 2>/dev/null; mount | grep -c "^copy on /data .*sync.*nosuid\|^copy on /data .*nosuid.*sync"`)
	dir := filepath.Join(c.Rootfs, "data")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "dir"), 0o755), os.WriteFile(filepath.Join(dir, "file"), []byte("file\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "dir/inner"), []byte("inner\n"), 0o600), os.Chown(filepath.Join(dir, "dir/inner"), 5, 6),
		os.Symlink("file", filepath.Join(dir, "link")), unix.Chmod(filepath.Join(dir, "dir/inner"), 0o4755), os.Chmod(dir, 0o751),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "copy", Options: []string{"nosuid", "sync", "tmpcopyup"}})
	if out, want := c.output(), "file\ninner\nfile\n600 0:0\n4755 5:6\n751 0:0\nchanged\n1\n"; out != want {
		t.Errorf("output %q, want %q", out, want)
	}
	if got := readFile(t, filepath.Join(dir, "file")); got != "file" {
		t.Errorf("the image has %q now", got)
	}
}

// TestCopyUpStaysInTheRoot: a link in the image can't make the runtime copy the host's files.
func TestCopyUpStaysInTheRoot(t *testing.T) {
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newContainer(t).shell("ls -A /data/; ls -A /data2/")
	for _, err := range []error{
		os.Symlink(host, filepath.Join(c.Rootfs, "data")), os.Mkdir(filepath.Join(c.Rootfs, "data2"), 0o755),
		os.Symlink(filepath.Join(host, "secret"), filepath.Join(c.Rootfs, "data2/link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, destination := range []string{"/data", "/data2"} {
		c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: destination, Type: "tmpfs", Options: []string{"tmpcopyup"}})
	}
	c.Spec.Root.Readonly = false
	r := c.run()
	if strings.Contains(r.Stdout, "secret") {
		t.Errorf("%+v", r)
	}
}

func TestCopyUpRefuses(t *testing.T) {
	c := newContainer(t, "true")
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/data", Type: "proc", Options: []string{"tmpcopyup"}})
	c.refused(`cannot mount "/data": option "tmpcopyup" is for a tmpfs, not for type "proc"`)
}

// TestRootlessCopyUp: for an ordinary user the container's process makes the copy.
func TestRootlessCopyUp(t *testing.T) {
	c := newRootless(t)
	dir := filepath.Join(c.Rootfs, "data")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "dir/deeper"), 0o755), os.WriteFile(filepath.Join(dir, "dir/file"), []byte(strings.Repeat("content\n", 1000)), 0o640),
		os.Symlink("dir/file", filepath.Join(dir, "link")), os.Chmod(filepath.Join(dir, "dir"), 0o750), unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600), os.Chmod(dir, 0o751),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Lchown(path, 1000, 1000))
	}); err != nil {
		t.Fatal(err)
	}
	c.spec.Process.Args = []string{"sh", "-c", "cd /data; wc -c < link; stat -c '%n %a %u:%g %F' . dir dir/deeper dir/file pipe; echo x > dir/file"}
	c.spec.Mounts = append(c.spec.Mounts, mount("/data", "tmpfs", "tmpfs", "tmpcopyup"), mount("/empty", "tmpfs", "tmpfs", "tmpcopyup", "ro"))
	c.spec.Root.Readonly = false
	writeJSON(t, c.config, c.spec)
	r := c.as("run", c.ID)
	wantEqual(t, r.Stdout+r.Stderr, "8000\n. 751 0:0 directory\ndir 750 0:0 directory\ndir/deeper 755 0:0 directory\ndir/file 640 0:0 regular file\npipe 600 0:0 fifo\n")
	wantEqual(t, len(readFile(t, filepath.Join(dir, "dir/file"))), 7999)
}

func mappings(container, host, size uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: container, HostID: host, Size: size}}
}

// TestMappedMounts shows files of the host's user 1000 as those of 0 or of whom the mapping says.
func TestMappedMounts(t *testing.T) {
	for name, test := range map[string]struct {
		mount   specs.Mount
		private bool // a user namespace from 0 to 100000
		want    string
	}{
		"own mappings":          {specs.Mount{Options: []string{"rbind", "idmap"}, UIDMappings: mappings(0, 5000, 2000), GIDMappings: mappings(0, 6000, 2000)}, false, "6000:7000"},
		"recursive":             {specs.Mount{Options: []string{"rbind", "ridmap"}, UIDMappings: mappings(1000, 42, 1), GIDMappings: mappings(1000, 43, 1)}, false, "42:43"},
		"without the option":    {specs.Mount{Options: []string{"bind"}, UIDMappings: mappings(1000, 42, 1), GIDMappings: mappings(1000, 43, 1)}, false, "42:43"},
		"the container's":       {specs.Mount{Options: []string{"bind", "idmap"}}, true, "1000:1000"},
		"no mapping, no option": {specs.Mount{Options: []string{"bind"}}, true, "65534:65534"},
	} {
		t.Run(name, func(t *testing.T) {
			source := t.TempDir()
			file := filepath.Join(source, "file")
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{file, source} {
				if err := os.Chown(path, 1000, 1000); err != nil {
					t.Fatal(err)
				}
			}
			c := newContainer(t).shell("stat -c %u:%g /data/file")
			test.mount.Destination, test.mount.Type, test.mount.Source = "/data", "bind", source
			c.Spec.Mounts = append(c.Spec.Mounts, test.mount)
			if test.private {
				c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
				c.Spec.Linux.UIDMappings, c.Spec.Linux.GIDMappings = mappings(0, 100000, 65536), mappings(0, 100000, 65536)
				if err := filepath.Walk(c.Rootfs, func(path string, _ os.FileInfo, err error) error { return os.Lchown(path, 100000, 100000) }); err != nil {
					t.Fatal(err)
				}
			}
			r := c.run()
			if strings.Contains(r.Stderr, "can its file system do that?") {
				t.Skip(r.Stderr)
			}
			if r.Stdout != test.want+"\n" {
				t.Errorf("%+v, want %s", r, test.want)
			}
		})
	}
}

func TestMappedMountsRefuse(t *testing.T) {
	c := newContainer(t, "true")
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: t.TempDir(), Options: []string{"bind", "idmap"}})
	c.refused(`cannot mount "/data": option "idmap" needs uidMappings and gidMappings of the mount, or a user namespace of the container`)
}
