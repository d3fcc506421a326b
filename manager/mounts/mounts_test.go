package mounts

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"
)

// TestOpenLeavesTheProcessItsMounts opens many mounts at once. The thread that one is made on ends with its mount namespace;
// if it were the main thread, which can't end, /proc/self would show that namespace from then on, and keep its mounts busy.
func TestOpenLeavesTheProcessItsMounts(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var opened sync.WaitGroup
	for range 8 {
		opened.Go(func() {
			for range 25 {
				root, err := Open([]*types.Mount{{Type: "bind", Source: dir, Options: []string{"ro", "rbind"}}})
				if errors.Is(err, unix.EPERM) {
					return // not root
				}
				if err != nil {
					t.Error(err)
					return
				}
				if names, err := root.Readdirnames(-1); err != nil || len(names) != 1 {
					t.Errorf("the mount has %v, %v", names, err)
				}
				if err := root.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	opened.Wait()
	if after, err := os.Readlink("/proc/self/ns/mnt"); err != nil || after != before {
		t.Errorf("the process's mount namespace was %s, now it is %s, %v", before, after, err)
	}
}
