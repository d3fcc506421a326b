package sys_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// TestOpenat2WhileOthersRename walks ".." while files are renamed elsewhere, as fast as two threads can.
func TestOpenat2WhileOthersRename(t *testing.T) {
	top, elsewhere := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(top, "a/b/c"), 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	for _, name := range []string{"x", "y"} {
		go renameUntil(done, filepath.Join(elsewhere, name))
	}
	defer close(done)
	root, err := unix.Open(top, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(root) }()
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	const path = "a/b/c/../../b/c/../../b/c/../../b/c/../../b/c"
	spoiled := 0
	for range 20000 {
		if fd, err := unix.Openat2(root, path, how); err == nil {
			_ = unix.Close(fd)
		} else {
			spoiled++
		}
		fd, err := sys.Openat2(root, path, how)
		if err != nil {
			t.Fatalf("after %d bare calls that failed: %v", spoiled, err)
		}
		_ = unix.Close(fd)
	}
	if spoiled == 0 {
		t.Skip("no rename came between: this machine is too quiet to prove anything")
	}
}

func renameUntil(done chan struct{}, path string) {
	_ = os.WriteFile(path, nil, 0o600)
	for {
		select {
		case <-done:
			return
		default:
			_ = os.Rename(path, path+".moved")
			_ = os.Rename(path+".moved", path)
		}
	}
}
