package runtime_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// makeFiles makes directories, links (->) and files with their content, in the order of their names.
func makeFiles(t testing.TB, top string, files ...[2]string) {
	t.Helper()
	for _, file := range files {
		name := filepath.Join(top, file[0])
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		if target, isLink := strings.CutPrefix(file[1], "->"); isLink {
			err = errors.Join(err, os.Symlink(target, name))
		} else {
			err = errors.Join(err, os.WriteFile(name, []byte(file[1]), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(top, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestMountOnALinkOfAVolume: a link in what an earlier mount binds leads to where a later mount is to be, which is not
// there yet.
func TestMountOnALinkOfAVolume(t *testing.T) {
	volume, other := t.TempDir(), t.TempDir()
	makeFiles(t, other, [2]string{"file", "x"})
	makeFiles(t, volume, [2]string{"absolute", "->/elsewhere/dir"}, [2]string{"relative", "->../made/dir"}, [2]string{"twice", "->absolute"},
		[2]string{"file", "->" + other + "/file"}, [2]string{"deep/link", "->../../made/deep"}, [2]string{"loop", "->loop"})
	for link, at := range map[string]string{"absolute": "/elsewhere/dir", "relative": "/made/dir", "twice": "/elsewhere/dir", "deep/link": "/made/deep"} {
		c := newContainer(t, "cat", at+"/file", "/vol/"+link+"/file")
		c.Spec.Root.Readonly = false
		c.Spec.Mounts = append(c.Spec.Mounts, mount("/vol", "bind", volume, "rbind"), mount("/vol/"+link, "bind", other, "rbind"))
		wantEqual(t, c.output(), "xx")
	}
	file := newContainer(t, "cat", "/vol/file")
	file.Spec.Root.Readonly = false
	file.Spec.Mounts = append(file.Spec.Mounts, mount("/vol", "bind", volume, "rbind"), mount("/vol/file", "bind", filepath.Join(other, "file"), "rbind"))
	wantEqual(t, file.output(), "x")
	loop := newContainer(t, "true")
	loop.Spec.Root.Readonly = false
	loop.Spec.Mounts = append(loop.Spec.Mounts, mount("/vol", "bind", volume, "rbind"), mount("/vol/loop", "bind", other, "rbind"))
	loop.refused("too many levels of symbolic links")
}

// TestBindOfWhatAnotherMountBrings: the source is in the container's root and comes with an earlier mount.
func TestBindOfWhatAnotherMountBrings(t *testing.T) {
	volume := t.TempDir()
	makeFiles(t, volume, [2]string{"dir/file", "x"}, [2]string{"link", "->/mnt/dir"})
	for name, change := range map[string]func(c *container){
		"plain": func(*container) {}, "user namespace": func(c *container) { mapUsers(t, c) },
		"id-mapped": func(c *container) {
			for i := range c.Spec.Mounts {
				if m := &c.Spec.Mounts[i]; strings.HasPrefix(m.Destination, "/final") {
					m.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 4000, Size: 1000}}
					m.GIDMappings = m.UIDMappings
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "sh", "-c", "cat /final/file /final-file /final-link/file; stat -c %u /final/file")
			c.Spec.Root.Readonly = false
			c.Spec.Mounts = append(c.Spec.Mounts, mount("/mnt", "bind", volume, "rbind"),
				mount("/final", "bind", filepath.Join(c.Rootfs, "mnt/dir"), "rbind"),
				mount("/final-file", "bind", filepath.Join(c.Rootfs, "mnt/dir/file"), "bind"),
				mount("/final-link", "bind", filepath.Join(c.Rootfs, "mnt/link"), "bind"))
			if name == "plain" { // where the host's names are what they are for every other mount
				c.Spec.Mounts[len(c.Spec.Mounts)-1].Source = filepath.Join(c.Rootfs, "mnt/dir")
			}
			change(c)
			owner := map[string]string{"plain": "0", "user namespace": "65534", "id-mapped": "4000"}[name]
			r := c.run()
			if strings.Contains(r.Stderr, "can its file system do that?") {
				t.Skip(r.Stderr)
			}
			wantEqual(t, r.Stderr+r.Stdout, "xxx"+owner+"\n")
		})
	}
	both := newContainer(t, "true")
	both.Spec.Mounts = append(both.Spec.Mounts, mount("/mnt", "bind", volume, "rbind"), mount("/final", "bind", filepath.Join(both.Rootfs, "mnt/dir"), "rbind", "idmap"))
	mapUsers(t, both)
	both.refused("an earlier mount of the container brings it along")
}

// TestOptionsThatABindHasNot: those of crun's that would change what is bound are refused, and others are named.
func TestOptionsThatABindHasNot(t *testing.T) {
	source := t.TempDir()
	for _, option := range []string{"idmap=uids=0-1000-10;gids=0-1000-10", "copy-symlink", "src-nofollow", "dest-nofollow"} {
		c := newContainer(t, "true")
		c.Spec.Mounts = append(c.Spec.Mounts, mount("/mnt", "bind", source, "rbind", option))
		c.refused(`option "` + option + `" of a bind mount is not implemented`)
	}
	c := newContainer(t, "true")
	c.Spec.Mounts = append(c.Spec.Mounts, mount("/mnt", "bind", source, "rbind", "size=64k"))
	r := c.run()
	wantEqual(t, r.Status, 0)
	wantContains(t, r.Stderr, `warning: the mount at "/mnt": option "size=64k" means nothing for a bind mount, it is ignored`)
}

// TestPathsThatAreListedTwice are masked, and made read-only, once.
func TestPathsThatAreListedTwice(t *testing.T) {
	c := newContainer(t, "cat", "/proc/self/mountinfo")
	makeFiles(t, c.Rootfs, [2]string{"secret/file", "x"}, [2]string{"secrets", "x"})
	c.Spec.Linux.MaskedPaths = []string{"/nowhere", "/secrets", "/secrets/", "/secret", "//secret", "/secrets", "/secret"}
	c.Spec.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/sys", "/proc/./sys", "/proc/sys"}
	info := c.output()
	for _, point := range []string{"/secret", "/secrets", "/proc/sys"} {
		if n := strings.Count(info, " "+point+" "); n != 1 {
			t.Errorf("%d mounts at %s", n, point)
		}
	}
}

// TestModeOfATmpfs is that of the directory that it hides, and is an option of the file system, which /proc/mounts shows.
func TestModeOfATmpfs(t *testing.T) {
	c := newContainer(t, "sh", "-c", "stat -c %a /hides /new /given; grep -E ' /(hides|new|given) ' /proc/mounts | cut -d' ' -f2,4 | sort")
	c.Spec.Root.Readonly = false
	hidden := filepath.Join(c.Rootfs, "hides")
	if err := errors.Join(os.Mkdir(hidden, 0o700), os.Chmod(hidden, 0o710|os.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	c.Spec.Mounts = append(c.Spec.Mounts, mount("/hides", "tmpfs", "tmpfs"), mount("/new", "tmpfs", "tmpfs"), mount("/given", "tmpfs", "tmpfs", "mode=750"))
	out := c.output()
	wantContains(t, out, "1710\n1777\n750\n")
	wantContains(t, out, "/given rw,relatime,mode=750")
	wantContains(t, out, "/hides rw,relatime,mode=1710")
	if strings.Contains(mountOf(out, "/new"), "mode") {
		t.Errorf("a new directory's: %s", out)
	}
}

func mountOf(list, point string) string {
	for line := range strings.Lines(list) {
		if strings.HasPrefix(line, point+" ") {
			return line
		}
	}
	return ""
}
