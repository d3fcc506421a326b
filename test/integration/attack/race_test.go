package attack_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const rounds = 10

// exchange swaps two names as fast as it can until the returned function is called.
func exchange(t testing.TB, one, other string) (stop func()) {
	t.Helper()
	var ended sync.WaitGroup
	done := make(chan struct{})
	ended.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
				runtime.Gosched()
			}
		}
	})
	stop = sync.OnceFunc(func() { close(done); ended.Wait() })
	t.Cleanup(stop)
	return stop
}

// TestExchangedMountPoints is CVE-2021-30465: a container with a shared volume swaps a directory and a link in it, while
// another is created with mounts inside the volume.
func TestExchangedMountPoints(t *testing.T) {
	h := newHost(t)
	attack := func(t testing.TB, program, target string) (good int, last outcome) {
		volume, source := t.TempDir(), t.TempDir()
		for _, err := range []error{os.MkdirAll(filepath.Join(volume, "a/sub"), 0o755), os.Symlink(target, filepath.Join(volume, "link"))} {
			if err != nil {
				t.Fatal(err)
			}
		}
		defer exchange(t, filepath.Join(volume, "a"), filepath.Join(volume, "link"))()
		c := newContainer(t).shell(h.search())
		if program != "" {
			c.Runtime = program
		}
		c.mount("/volume", "bind", volume, "bind")
		c.mount("/volume/a", "bind", source, "bind")
		c.mount("/volume/a/sub/file", "tmpfs", "tmpfs")
		c.mount("/volume/a/new", "bind", source, "bind")
		c.mount("/volume/a/copy", "tmpfs", "tmpfs", "tmpcopyup")
		c.Spec.Linux.MaskedPaths = append(c.Spec.Linux.MaskedPaths, "/volume/a/sub", "/volume/link/sub")
		c.Spec.Linux.ReadonlyPaths = append(c.Spec.Linux.ReadonlyPaths, "/volume/a")
		for range rounds {
			r := c.run()
			if strings.Contains(r.Stdout, h.Canary) {
				last = r
			}
			if r.Status <= 1 && r.Stderr == "" {
				good++
			} else if strings.Contains(r.Stderr, unix.EAGAIN.Error()) {
				t.Errorf("a link to %s: a rename alone was enough: %+v", target, r)
			}
		}
		return good, last
	}
	for _, target := range []string{"/", "/proc/self/root" + h.Dir, upwards + h.Dir[1:]} {
		good, seen := attack(t, "", target)
		if seen.Stdout != "" {
			t.Errorf("a link to %s: the container sees the host: %+v", target, seen)
		}
		h.untouched(t)
		if magic := strings.HasPrefix(target, "/proc/"); good == 0 && !magic { // links of procfs are followed nowhere
			t.Errorf("a link to %s: none of %d containers ran", target, rounds)
		}
	}
}

// TestExchangedDevice: between the making of a device and the setting of its mode a neighbour may put a link in its place.
func TestExchangedDevice(t *testing.T) {
	h := newHost(t)
	volume := t.TempDir()
	device, link := filepath.Join(volume, "device"), filepath.Join(volume, "link")
	mode, owner := os.FileMode(0o666), uint32(7)
	c := newContainer(t, "true")
	c.mount("/volume", "bind", volume, "bind")
	c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/volume/device", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &owner, GID: &owner}}
	ran := 0
	for range 2 * rounds {
		_ = os.Remove(device)
		_ = os.Remove(link)
		if err := os.Symlink(filepath.Join(h.Dir, h.Canary), link); err != nil {
			t.Fatal(err)
		}
		stop := exchange(t, device, link)
		r := c.run()
		stop()
		c.tidy(r)
		if r.Status == 0 {
			ran++
		}
		h.untouched(t)
		if t.Failed() {
			break
		}
	}
	if ran == 0 {
		t.Error("no container ran")
	}
}

// TestExchangedProc is CVE-2019-19921 and 2023-27561: the image's /proc leads into a volume, where a neighbour moves
// what is mounted there away before it is masked.
func TestExchangedProc(t *testing.T) {
	attack := func(t testing.TB, program string) (refusals, unmasked int) {
		volume := t.TempDir()
		for _, name := range []string{"proc", "other"} {
			if err := os.MkdirAll(filepath.Join(volume, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		defer exchange(t, filepath.Join(volume, "proc"), filepath.Join(volume, "other"))()
		c := newContainer(t).shell("cat /volume/proc/sys/kernel/ostype /volume/other/sys/kernel/ostype; for p in /volume/proc /volume/other; do touch $p/sys/kernel/domainname 2>/dev/null && test -e $p/self && (echo attack > $p/sys/kernel/domainname) && echo unmasked; done")
		if program != "" {
			c.Runtime = program
		}
		c.link("proc", "/volume/proc")
		c.Spec.Mounts = append([]specs.Mount{{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"bind"}}}, c.Spec.Mounts...)
		for range rounds {
			r := c.run()
			if r.Stderr != "" && r.Stdout == "" {
				refusals++
			}
			if strings.Contains(r.Stdout, "unmasked") {
				unmasked++
			}
		}
		return refusals, unmasked
	}
	refusals, unmasked := attack(t, "")
	if unmasked > 0 {
		t.Errorf("in %d of %d containers /proc is writable", unmasked, rounds)
	}
	if refusals != rounds {
		t.Errorf("%d of %d containers were refused", refusals, rounds)
	}
}
