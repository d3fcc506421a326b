package native

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func lstat(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	stat := *info.Sys().(*syscall.Stat_t)
	stat.Mode &= 0o7777 | syscall.S_IFMT
	return &stat
}

func TestCopyKeepsWhatTarKnows(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	past := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	at := func(name string) string { return filepath.Join(from, name) }
	must(t, os.MkdirAll(at("dir/sub"), 0o755), os.WriteFile(at("dir/file"), []byte("content"), 0o640),
		os.Link(at("dir/file"), at("link")), os.Symlink("../nowhere", at("symlink")), unix.Mkfifo(at("fifo"), 0o600))
	if err := unix.Setxattr(at("dir/file"), "user.berth", []byte("value"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		must(t, os.Lchown(at("dir/file"), 1000, 1001), os.Lchown(at("symlink"), 1002, 1003),
			unix.Mknod(at("whiteout"), unix.S_IFCHR, int(unix.Mkdev(0, 0))))
	}
	must(t, unix.Chmod(at("dir/file"), 0o4755), unix.Chmod(at("dir"), 0o1777))
	names := []string{"dir/file", "dir/sub", "link", "fifo", "dir", ""}
	for _, name := range names {
		must(t, os.Chtimes(at(name), past, past))
	}
	must(t, copyTree(from, to))

	if _, err := os.Lstat(at("whiteout")); err == nil {
		names = append(names, "whiteout")
	}
	for _, name := range append(names, "symlink") {
		a, b := lstat(t, at(name)), lstat(t, filepath.Join(to, name))
		if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim != b.Mtim || a.Rdev != b.Rdev || a.Nlink != b.Nlink {
			t.Errorf("%q became\n%+v, was\n%+v", name, b, a)
		}
	}
	if lstat(t, filepath.Join(to, "dir/file")).Ino != lstat(t, filepath.Join(to, "link")).Ino {
		t.Error("two names of one file became two files")
	}
	if content, err := os.ReadFile(filepath.Join(to, "link")); err != nil || string(content) != "content" {
		t.Errorf("content %q, %v", content, err)
	}
	if target, err := os.Readlink(filepath.Join(to, "symlink")); err != nil || target != "../nowhere" {
		t.Errorf("link to %q, %v", target, err)
	}
	value := make([]byte, 16)
	if n, err := unix.Getxattr(at("link"), "user.berth", value); err == nil {
		got := make([]byte, 16)
		m, err := unix.Getxattr(filepath.Join(to, "link"), "user.berth", got)
		if err != nil || string(got[:m]) != string(value[:n]) {
			t.Errorf("attribute %q, %v; want %q", got[:m], err, value[:n])
		}
	}
}

func TestCopyReportsWhatIsMissing(t *testing.T) {
	if err := copyTree(filepath.Join(t.TempDir(), "missing"), filepath.Join(t.TempDir(), "to")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestCopyKeepsHoles(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	must(t, os.Mkdir(from, 0o755))
	sparse := filepath.Join(from, "sparse")
	file, err := os.Create(sparse)
	must(t, err)
	_, err = file.WriteAt([]byte("in the middle"), 32<<20)
	must(t, err, file.Truncate(64<<20), file.Close(), os.WriteFile(filepath.Join(from, "empty"), nil, 0o600))
	must(t, copyTree(from, to))
	was, is := lstat(t, sparse), lstat(t, filepath.Join(to, "sparse"))
	if is.Size != was.Size || is.Blocks > was.Blocks {
		t.Errorf("the copy has %d bytes in %d blocks, the source %d in %d", is.Size, is.Blocks, was.Size, was.Blocks)
	}
	part := make([]byte, len("in the middle"))
	copied, err := os.Open(filepath.Join(to, "sparse"))
	must(t, err)
	defer func() { _ = copied.Close() }()
	if _, err := copied.ReadAt(part, 32<<20); err != nil || string(part) != "in the middle" {
		t.Errorf("the copy has %q, %v", part, err)
	}
}
