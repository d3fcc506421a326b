package attack_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestVolumeInPlaceOfTheKernels: an image can't have a link in place of /dev, but it can have a link to it where a volume
// is mounted, which then lies over what is the container's own. The runtime must not fill the volume in its place, as it
// filled directories of the host with CVE-2026-41579.
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
					c.tidy(c.run())
					c.tidy(c.withTerminal("create", "--bundle", c.Bundle, c.ID))
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
