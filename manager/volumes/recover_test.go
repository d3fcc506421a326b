package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (s *Service) names(t *testing.T) []string {
	t.Helper()
	list, err := s.List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range list {
		names = append(names, v.Name)
	}
	return names
}

// wantDirectories waits until the service's directory holds nothing else.
func (s *Service) wantDirectories(t *testing.T, want ...string) {
	t.Helper()
	var found []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		entries, err := os.ReadDir(s.cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		found = nil
		for _, entry := range entries {
			found = append(found, entry.Name())
		}
		if slices.Equal(found, want) {
			return
		}
	}
	t.Errorf("there are the directories %q, want %q", found, want)
}

// What a crash leaves is finished or undone by the next start.
func TestRecovery(t *testing.T) {
	db, s := openTestService(t)
	half, err := s.Use(t.Context(), "half", "container")
	if err != nil {
		t.Fatal(err)
	}
	write(t, half+"/some", "1")
	before, err := os.Stat(half)
	if err != nil {
		t.Fatal(err)
	}
	populating := *s.get("half")
	populating.Populating = true
	if err := s.put(&populating); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), Volume{}); err != nil { // its container was never made
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), Volume{Name: "removed"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(s.cfg.Dir, "removed"), filepath.Join(s.cfg.Dir, gravePrefix("removed")+"x")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.cfg.Dir, removingPrefix+"x", dataDir, "file"), "1")

	s = reopen(t, db, s)
	if names := s.names(t); !slices.Equal(names, []string{"half"}) {
		t.Errorf("the volumes are %q", names)
	}
	if entries, err := os.ReadDir(half); err != nil || len(entries) > 0 {
		t.Errorf("of a half copy %v is left, %v", entries, err)
	}
	if after, err := os.Stat(half); err != nil || !os.SameFile(before, after) {
		t.Errorf("the directory, which a container may have mounted, is another one: %v", err)
	}
	s.wantDirectories(t, "half")
}

// A container's last will, an immutable file and a mount, does not outlive the volume.
func TestHostileContentIsDeleted(t *testing.T) {
	_, s := openTestService(t)
	if _, err := s.Create(t.Context(), Volume{Name: "v"}); err != nil {
		t.Fatal(err)
	}
	write(t, s.data("v")+"/locked/file", "1")
	setImmutable(t, s.data("v")+"/locked/file", true)
	setImmutable(t, s.data("v")+"/locked", true)
	busy := s.data("v") + "/busy"
	if err := errors.Join(os.Mkdir(busy, 0o755), unix.Mount("none", busy, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "v", false); err != nil {
		t.Fatal(err)
	}
	s.wantDirectories(t)
}

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
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("the file system of %s has no immutable files: %v", path, err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What can't be deleted, or put in order, is left for later. It keeps neither berthd from starting nor others from working.
func TestDisorderOfOneVolume(t *testing.T) {
	db, s := openTestService(t)
	for _, name := range []string{"half", "sound"} {
		if _, err := s.Use(t.Context(), name, "container"); err != nil {
			t.Fatal(err)
		}
	}
	populating := *s.get("half")
	populating.Populating = true
	if err := s.put(&populating); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(s.data("half")), os.WriteFile(s.data("half"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	grave := gravePrefix("gone") + "x"
	write(t, filepath.Join(s.cfg.Dir, grave, dataDir, "file"), "1")
	setImmutable(t, s.cfg.Dir, true)
	defer setImmutable(t, s.cfg.Dir, false)

	again := reopen(t, db, s)
	if _, err := again.Use(t.Context(), "sound", "another"); err != nil {
		t.Errorf("another volume can't be used: %v", err)
	}
	if _, err := again.Use(t.Context(), "half", "another"); err == nil {
		t.Error("a half populated volume is used as it is")
	}
	setImmutable(t, s.cfg.Dir, false)
	if err := errors.Join(os.Remove(s.data("half")), os.Mkdir(s.data("half"), 0o755)); err != nil {
		t.Fatal(err)
	}
	again = reopen(t, db, s)
	if _, err := again.Use(t.Context(), "half", "another"); err != nil {
		t.Error(err)
	}
	again.wantDirectories(t, "half", "sound")
}

// A copy into a volume, or a deletion, takes as long as it takes. Only calls for the same volume wait for it, and as long as they like.
func TestOtherVolumesDoNotWait(t *testing.T) {
	_, s := openTestService(t)
	for _, name := range []string{"slow", "other"} {
		if _, err := s.Use(t.Context(), name, "container"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Use(t.Context(), "other", "second"); err != nil {
		t.Fatal(err)
	}
	unlock, err := s.lock(t.Context(), "slow") // as Populate does while it copies
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = s.Create(ctx, Volume{Name: "new"})
	_, listed := s.List(ctx, nil)
	_, inspected := s.Inspect(ctx, "slow")
	if err := errors.Join(err, listed, inspected, s.Remove(ctx, "new", false), s.Release(ctx, "second", true)); err != nil {
		t.Error(err)
	}
	short, end := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer end()
	if _, err := s.Use(short, "slow", "third"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a volume that is being filled can be used: %v", err)
	}
	unlock()
	if _, err := s.Use(ctx, "slow", "third"); err != nil {
		t.Error(err)
	}
}

// Users that exist no longer do not keep a volume in use.
func TestReconcile(t *testing.T) {
	_, s := openTestService(t)
	for _, user := range []string{"lost", "here"} {
		for _, name := range []string{"both", user} {
			if _, err := s.Use(t.Context(), name, user); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Reconcile(t.Context(), []string{"here"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{"both": {"here"}, "here": {"here"}, "lost": {}} {
		if v, err := s.Inspect(t.Context(), name); err != nil || !slices.Equal(v.Containers, want) {
			t.Errorf("volume %s is used by %q, %v", name, v.Containers, err)
		}
	}
	if err := s.Remove(t.Context(), "lost", false); err != nil {
		t.Error(err)
	}
}

// The umask that berthd was started with must not keep a container's users out.
func TestModesDoNotDependOnTheUmask(t *testing.T) {
	_, s := openTestService(t)
	defer syscall.Umask(syscall.Umask(0o077))
	dir, err := s.Use(t.Context(), "v", "container")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o755, filepath.Dir(dir): 0o711} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has the mode %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
}
