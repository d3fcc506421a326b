package process

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"

	"github.com/berthd/berth/internal/errdefs"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
}

func mount(t *testing.T, mounts ...*types.Mount) string {
	t.Helper()
	needRoot(t)
	target := filepath.Join(t.TempDir(), "rootfs")
	t.Cleanup(func() {
		if err := Unmount(target); err != nil {
			t.Error(err)
		}
	})
	if err := Mount(mounts, target); err != nil {
		t.Fatal(err)
	}
	return target
}

func TestMountBind(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	target := mount(t, &types.Mount{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
	if _, err := os.ReadFile(filepath.Join(target, "file")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); err == nil {
		t.Error("a read-only bind mount can be written")
	}
}

// layers makes so many that their paths don't fit into the one page of options that mount(2) takes.
func layers(t *testing.T, count int) string {
	t.Helper()
	var dirs []string
	for i := range count {
		dir := filepath.Join(t.TempDir(), "layer-with-a-long-name")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	return strings.Join(dirs, ":")
}

func TestMountOverlayOfManyLayers(t *testing.T) {
	needRoot(t)
	const count = 80
	lower := layers(t, count)
	if len(lower) < 4096 {
		t.Fatalf("%d bytes of options are not many", len(lower))
	}
	target := mount(t, &types.Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + lower}})
	entries, err := os.ReadDir(target)
	if err != nil || len(entries) != count {
		t.Errorf("%d files, want %d, %v", len(entries), count, err)
	}
}

func TestMountRefuses(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	err := Mount([]*types.Mount{{Type: "nofs", Source: "x", Options: []string{"weird"}}}, dir)
	if err == nil || !strings.Contains(err.Error(), `"nofs"`) || !strings.Contains(err.Error(), "weird") {
		t.Errorf("unknown type: %v", err)
	}
	err = Mount([]*types.Mount{{Type: "bind", Source: dir, Target: "/sub", Options: []string{"bind"}}}, dir)
	if !errors.Is(err, errdefs.ErrUnimplemented) {
		t.Errorf("target inside: %v", err)
	}
	if err := Unmount(dir); err != nil {
		t.Errorf("unmounting nothing: %v", err)
	}
}
