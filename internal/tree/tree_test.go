package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// memoryDir returns a directory for many entries, on a tmpfs if there is one.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "berth-tree-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := Remove(context.WithoutCancel(t.Context()), dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// makeDeep makes a chain of directories in dir, each with a file, and returns its top.
func makeDeep(t *testing.T, dir string, depth int) string {
	t.Helper()
	top := filepath.Join(dir, "deep")
	if err := os.Mkdir(top, 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Open(top, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range depth {
		if err != nil {
			t.Fatal(err)
		}
		var file, next int
		file, err = unix.Openat(at, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err == nil {
			_ = unix.Close(file)
			err = unix.Mkdirat(at, "directory", 0o755)
		}
		if err == nil {
			next, err = unix.Openat(at, "directory", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		_ = unix.Close(at)
		at = next
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(at)
	return top
}

// limitFiles leaves a process few descriptors.
func limitFiles(t *testing.T, n uint64) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	})
}

const deep = 3_000 // several times PATH_MAX by its path

func TestRemoveDeep(t *testing.T) {
	for _, limit := range []uint64{128, 24} { // more than the window, and less
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			top := makeDeep(t, memoryDir(t), deep)
			limitFiles(t, limit)
			if err := Remove(t.Context(), top); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(top); !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		})
	}
}

func TestRemoveWideAndDeep(t *testing.T) {
	top := filepath.Join(memoryDir(t), "top")
	for i := range 40 {
		if err := os.MkdirAll(filepath.Join(top, strings.Repeat("a/", i), fmt.Sprint(i), strings.Repeat("b/", 2*i)), 0o700); err != nil {
			t.Fatal(err)
		}
		for j := range 5 {
			if err := os.MkdirAll(filepath.Join(top, strings.Repeat("a/", i), fmt.Sprint("dir", j)), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := Remove(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(top); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestRemoveOfOtherThings(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	top := filepath.Join(dir, "top")
	if err := os.MkdirAll(top, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(top, "up")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(top, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, top, filepath.Join(dir, "missing"), filepath.Join(dir, "missing", "too")} {
		if err := Remove(t.Context(), path); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != "outside" {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// TestRemoveDetachesMounts has a mount inside the tree, and one on its top.
func TestRemoveDetachesMounts(t *testing.T) {
	dir := t.TempDir()
	source, top := filepath.Join(dir, "source"), filepath.Join(dir, "top")
	for _, path := range []string{source, filepath.Join(top, "in", "it")} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	precious := filepath.Join(source, "precious")
	for _, path := range []string{precious, filepath.Join(top, "file")} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, mount := range [][2]string{
		{source, filepath.Join(top, "in", "it")},
		{source, filepath.Join(top, "in", "it")},
		{precious, filepath.Join(top, "file")},
		{top, top},
	} {
		err := unix.Mount(mount[0], mount[1], "", unix.MS_BIND|unix.MS_REC, "")
		if errors.Is(err, unix.EPERM) {
			t.Skip("mounting needs root")
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(mount[1], unix.MNT_DETACH) })
	}
	if err := Remove(t.Context(), top); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(top); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Lstat(precious); err != nil {
		t.Errorf("a mount was entered: %v", err)
	}
}

// setFlags sets inode flags, or skips the test where the file system has none.
func setFlags(t *testing.T, path string, flags int) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	err = unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, flags)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		t.Skipf("immutable files can't be made here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // only if the test has failed
		if file, err := os.Open(path); err == nil {
			_ = unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, 0)
			_ = file.Close()
		}
	})
}

func TestRemoveClearsFlags(t *testing.T) {
	top := filepath.Join(t.TempDir(), "top")
	inner := filepath.Join(top, "dir")
	file, log := filepath.Join(inner, "file"), filepath.Join(top, "log")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, log} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	setFlags(t, file, immutable)
	setFlags(t, inner, immutable)
	setFlags(t, log, appendOnly)
	setFlags(t, top, appendOnly)
	if err := Remove(t.Context(), top); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(top); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestRemoveTellsWhatStays(t *testing.T) {
	dir := t.TempDir()
	top := filepath.Join(dir, "top")
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("mounting needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.MkdirAll(filepath.Join(top, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	err := Remove(t.Context(), top)
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), top) {
		t.Errorf("error %v", err)
	}
}

func TestRemoveStopsWhenCancelled(t *testing.T) {
	top := makeDeep(t, memoryDir(t), 100)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Remove(ctx, top); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err := Remove(t.Context(), top); err != nil {
		t.Error(err)
	}
}

func TestUsageOfADeepTree(t *testing.T) {
	top := makeDeep(t, memoryDir(t), deep)
	limitFiles(t, 128)
	_, inodes, err := Usage(t.Context(), top)
	if err != nil || inodes != 2*deep+1 {
		t.Errorf("%d inodes, %v; want %d", inodes, err, 2*deep+1)
	}
}

// TestUsageGoesOnAfterADeepBranch has directories on both sides of branches deeper than what stays open.
func TestUsageGoesOnAfterADeepBranch(t *testing.T) {
	top := filepath.Join(memoryDir(t), "top")
	want := int64(1)
	for _, name := range []string{"1", "2", "3", "4"} {
		at := filepath.Join(top, name)
		for range 3 * window {
			at = filepath.Join(at, "d")
		}
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		want += 3*window + 1
		for i := range 3 * window {
			dir := filepath.Join(top, name, strings.Repeat("d/", i))
			for _, file := range []string{"a", "z"} {
				if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				want++
			}
		}
	}
	if err := os.Link(filepath.Join(top, "1", "a"), filepath.Join(top, "second name")); err != nil {
		t.Fatal(err)
	}
	_, inodes, err := Usage(t.Context(), top)
	if err != nil || inodes != want {
		t.Errorf("%d inodes, %v; want %d", inodes, err, want)
	}
	if size, inodes, err := Usage(t.Context(), top+"x"); size != 0 || inodes != 0 || err != nil {
		t.Errorf("of nothing: %d, %d, %v", size, inodes, err)
	}
}

func TestUsageCountsAFileOnce(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	alone, inodes, err := Usage(t.Context(), dir)
	if err != nil || inodes != 2 || alone < 64<<10 {
		t.Errorf("one file: %d bytes, %d inodes, %v", alone, inodes, err)
	}
	if err := os.Link(name, name+"2"); err != nil {
		t.Fatal(err)
	}
	if linked, inodes, err := Usage(t.Context(), dir); err != nil || inodes != 2 || linked != alone {
		t.Errorf("with a second name: %d bytes, %d inodes, %v; want %d, 2", linked, inodes, err, alone)
	}
}
