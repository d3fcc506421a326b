package attack_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestVolumeInPlaceOfTheKernels: an image can't have a link in place of /dev, but it can have a link to it where a volume
// is mounted, which then lies over what is the container's own. The runtime must not fill the volume in its place, as it
// filled directories of the host with CVE-2026-41579. Over /proc no volume may lie at all: programs trust what is there.
func TestVolumeInPlaceOfTheKernels(t *testing.T) {
	for _, target := range []string{"/dev", "/dev/pts", "/proc", "/proc/sys", "/proc/1", "/sys", "/sys/fs/cgroup", "/"} {
		for _, ownDev := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s %v", target, ownDev), func(t *testing.T) {
				c := newContainer(t, "true").capable()
				if !ownDev {
					c.without("/dev")
				}
				volume := t.TempDir()
				for _, name := range []string{"ptmx", "fd"} {
					if err := os.WriteFile(filepath.Join(volume, name), nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				before := tree(t, volume)
				c.link("data", target)
				c.mount("/data", "bind", volume, "rbind")
				mode, owner := os.FileMode(0o666), uint32(7)
				c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/attack", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &owner}}
				c.Spec.Linux.Sysctl = map[string]string{"kernel.shmmax": "1234567"}
				for _, masks := range [][]string{c.Spec.Linux.MaskedPaths, nil} {
					c.Spec.Linux.MaskedPaths = masks
					for _, r := range []outcome{c.run(), c.withTerminal("create", "--bundle", c.Bundle, c.ID)} {
						c.tidy(r)
						c.wantVolumeAt(r, target)
					}
					c.verb("delete", "--force", c.ID)
					c.Spec.Process.Terminal = false
				}
				if after := tree(t, volume); !slices.Equal(after, before) {
					t.Errorf("the volume has changed: %v", after)
				}
			})
		}
	}
}

// wantVolumeAt checks what came of a container whose volume is led to target by a link of its image.
func (c *container) wantVolumeAt(r outcome, target string) {
	c.t.Helper()
	switch {
	case target == "/proc" || strings.HasPrefix(target, "/proc/"):
		c.refused(r, `cannot mount at "/data": it is inside of /proc`)
	case r.Status != 0 && !c.Spec.Process.Terminal: // which needs a /dev that is the container's
		c.t.Errorf("a volume at %s: %+v", target, r)
	}
}

// TestVolumeOverProc: whatever way a volume takes to /proc, what processes see there is the kernel's.
func TestVolumeOverProc(t *testing.T) {
	volume := t.TempDir()
	if err := os.WriteFile(filepath.Join(volume, "status"), []byte("Name: fake\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	long := "lowerdir=" + volume + ":" + strings.Repeat("/.", 150) + t.TempDir()
	for name, mount := range map[string]specs.Mount{
		"bind":    {Type: "bind", Source: volume, Options: []string{"rbind"}},
		"tmpfs":   {Type: "tmpfs", Source: "tmpfs"},
		"copy":    {Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}},
		"proc":    {Type: "proc", Source: "proc"},
		"sysfs":   {Type: "sysfs", Source: "sysfs"},
		"overlay": {Type: "overlay", Source: "overlay", Options: []string{long}}, // longer than fsconfig takes
	} {
		for _, link := range []string{"/proc", "/proc/self/", "/proc/sys", "/proc/thread-self/attr", "sub/../../proc/1"} {
			c := newContainer(t).shell("cat /proc/self/status")
			if err := os.Mkdir(filepath.Join(c.Rootfs, "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			c.link("data", link)
			mount.Destination = "/data"
			c.Spec.Mounts = append(c.Spec.Mounts, mount)
			c.refused(c.run(), "inside of /proc")
			c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1, Minor: 3}}

			// Before the container's own /proc comes it is covered by that.
			c.Spec.Mounts = append([]specs.Mount{mount}, c.Spec.Mounts[:len(c.Spec.Mounts)-1]...)
			if r := c.run(); r.Status == 0 && !strings.Contains(r.Stdout, "Name:\tcat") {
				t.Errorf("%s by a link to %s sees %q", name, link, r.Stdout)
			}
		}
	}

	// A procfs that a configuration mounts elsewhere is no authority, and may be covered.
	c := newContainer(t).shell("cat /host/proc/sys/status")
	c.mount("/host/proc", "bind", "/proc", "rbind")
	c.mount("/host/proc/sys", "bind", volume, "rbind")
	if r := c.run(); r.Status != 0 || r.Stdout != "Name: fake\n" {
		t.Errorf("the host's /proc, with a volume in it: %+v", r)
	}
}
