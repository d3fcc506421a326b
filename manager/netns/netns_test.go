package netns

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCreateAndRemove(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	path := filepath.Join(t.TempDir(), "netns", "a")
	if err := Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Remove(path) })
	var pinned, own, fs unix.Stat_t
	if err := unix.Stat(path, &pinned); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat("/proc/self/ns/net", &own); err != nil {
		t.Fatal(err)
	}
	if pinned.Dev != own.Dev || pinned.Ino == own.Ino {
		t.Errorf("%s is no network namespace of its own", path)
	}
	held, err := os.Open(path) // or else the kernel may use its inode number again
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	// One that could not be removed is in nobody's way: neither a namespace nor a file without one.
	if err := Create(path); err != nil {
		t.Errorf("a namespace that was left is in the way: %v", err)
	}
	var next unix.Stat_t
	if err := unix.Stat(path, &next); err != nil || next.Ino == pinned.Ino || next.Dev != pinned.Dev {
		t.Errorf("the namespace at the path is the earlier one, %v", err)
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := Create(path); err != nil {
		t.Errorf("a file that was left is in the way: %v", err)
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Stat(path, &fs); err == nil {
		t.Errorf("%s is still there", path)
	}
}
