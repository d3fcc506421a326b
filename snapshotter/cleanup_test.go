package snapshotter

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// setImmutable sets or clears a file's immutable flag, or skips the test where there is none.
func setImmutable(t *testing.T, path string, set bool) {
	t.Helper()
	const immutable = 0x10 // FS_IMMUTABLE_FL
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	flags, err := unix.IoctlGetUint32(int(file.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		flags &^= immutable
		if set {
			flags |= immutable
		}
		err = unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, int(flags))
	}
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		t.Skipf("immutable files can't be made here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestOpenWithWhatCannotBeRemoved opens a directory whose left-overs stay, because nothing in it can be removed.
func TestOpenWithWhatCannotBeRemoved(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Native)
	prepare(t, s, "kept", "")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(s.dir, "7/fs"), 0o700), os.WriteFile(filepath.Join(s.dir, "odd"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	setImmutable(t, s.dir, true)
	defer setImmutable(t, s.dir, false)
	again := open(t, dir, "")
	again.remover.Wait()
	if err := again.Cleanup(); err != nil {
		t.Error(err)
	}
	if _, err := again.mounts("kept"); err != nil {
		t.Error(err)
	}
	setImmutable(t, s.dir, false)
	if next := prepare(t, again, "next", ""); filepath.Base(filepath.Dir(next)) != "8" {
		t.Errorf("the next one is %s", next)
	}
	if err := again.Cleanup(); err != nil {
		t.Error(err)
	}
	if left := directories(t, again); !slices.Equal(left, []string{"1", "8"}) {
		t.Errorf("left: %v", left)
	}
}

// TestRemoveOfHostileFiles removes a snapshot with an immutable file and a mount in it.
func TestRemoveOfHostileFiles(t *testing.T) {
	onEach(t, func(t *testing.T, s *Snapshotter) {
		dir := prepare(t, s, "hostile", "")
		file, mountPoint := filepath.Join(dir, "immutable"), filepath.Join(dir, "mount")
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Mkdir(mountPoint, 0o700)); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", mountPoint, "tmpfs", 0, ""); err != nil {
			t.Skipf("mounting needs root: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(mountPoint, unix.MNT_DETACH) })
		setImmutable(t, file, true)
		t.Cleanup(func() {
			if _, err := os.Lstat(file); err == nil {
				setImmutable(t, file, false)
			}
		})
		if err := s.remove("hostile"); err != nil {
			t.Fatal(err)
		}
		s.remover.Wait()
		if left := directories(t, s); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestOpenRestoresDirectories opens a directory after a power failure has taken what was not synced.
func TestOpenRestoresDirectories(t *testing.T) {
	onEach(t, func(t *testing.T, s *Snapshotter) {
		root := prepare(t, s, "bottom", "")
		if err := os.Chmod(root, 0o750); err != nil {
			t.Fatal(err)
		}
		if err := s.commit(t.Context(), commitOf("bottom", "layer")); err != nil {
			t.Fatal(err)
		}
		for _, lost := range []string{prepare(t, s, "a", "layer"), filepath.Dir(prepare(t, s, "b", "layer"))} {
			if err := os.RemoveAll(lost); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		again := open(t, filepath.Dir(s.dir), "")
		for _, key := range []string{"a", "b"} {
			snapshot, err := again.graph.Get(key)
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(filepath.Join(again.path(snapshot.ID), "fs"))
			if err != nil || info.Mode() != fs.ModeDir|0o750 || !again.layout.Complete(snapshot) {
				t.Errorf("%s: %v, %v", key, info, err)
			}
		}
	})
}

// TestUmask makes snapshots under a narrow umask, as a hardened root shell has.
func TestUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	onEach(t, func(t *testing.T, s *Snapshotter) {
		root := prepare(t, s, "a", "")
		for path, want := range map[string]fs.FileMode{root: 0o755, filepath.Dir(root): 0o711, s.dir: 0o711, filepath.Dir(s.dir): 0o711} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm()&want != want {
				t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
			}
		}
	})
}
