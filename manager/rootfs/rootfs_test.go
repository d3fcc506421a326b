package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
}

func TestRelativeLowers(t *testing.T) {
	common, short := relativeLowers("index=off,lowerdir=/var/lib/s/12/fs:/var/lib/s/3/fs,upperdir=/u")
	if common != "/var/lib/s" || short != "index=off,lowerdir=12/fs:3/fs,upperdir=/u" {
		t.Errorf("got %q, %q", common, short)
	}
}

// overlay makes directories for an overlay of many layers, each with a file of its own.
func overlay(t *testing.T, layers int) ([]*types.Mount, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "b.rootfs") // on a disk: tmpfs can't hold overlay's upper directory everywhere
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var lowers []string
	for i := range layers {
		lower := filepath.Join(dir, "a-rather-long-name-for-the-directory-of-a-layer", fmt.Sprint(i), "fs")
		if err := os.MkdirAll(lower, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(lower, fmt.Sprint("file", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		lowers = append(lowers, lower)
	}
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + strings.Join(lowers, ":"), "upperdir=" + filepath.Join(dir, "upper"), "workdir=" + filepath.Join(dir, "work"),
	}}}, filepath.Join(dir, "mnt")
}

func TestMountOfManyLayers(t *testing.T) {
	needRoot(t)
	const layers = 90 // more than fit into mount(2)'s page with their full names
	mounts, target := overlay(t, layers)
	if err := Mount(mounts, target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Unmount(target) })
	for _, i := range []int{0, layers - 1} {
		if _, err := os.Stat(filepath.Join(target, fmt.Sprint("file", i))); err != nil {
			t.Error(err)
		}
	}
	if err := Unmount(target); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) > 0 {
		t.Errorf("after unmounting: %v, %v", entries, err)
	}
	if err := Unmount(target); err != nil {
		t.Errorf("unmounting again: %v", err)
	}
	if err := Unmount(target + "/none"); err != nil {
		t.Errorf("unmounting what is not there: %v", err)
	}
}

func TestReadOnlyBind(t *testing.T) {
	needRoot(t)
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "mnt")
	if err := Mount([]*types.Mount{{Type: "bind", Source: source, Options: []string{"rbind", "ro"}}}, target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Unmount(target) })
	if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o644); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("writing gave %v", err)
	}
}

func TestMountErrorsTellWhatAndWhere(t *testing.T) {
	target := filepath.Join(t.TempDir(), "mnt")
	if err := Mount(nil, target); err == nil || !strings.Contains(err.Error(), "no mounts") {
		t.Errorf("no mounts: %v", err)
	}
	err := Mount([]*types.Mount{{Type: "nosuchfs", Source: "src", Options: []string{"opt"}}}, target)
	for _, text := range []string{"nosuchfs", `"src"`, `"opt"`, target} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %s in it", err, text)
		}
	}
}
