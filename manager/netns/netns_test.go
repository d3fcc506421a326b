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
	if err := Create(path); err == nil {
		t.Error("made a namespace over another one")
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
