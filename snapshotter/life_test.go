package snapshotter

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/snapshotter/graph"
	"github.com/berthd/berth/snapshotter/overlay"
)

// open opens a snapshotter that is closed with the test, unless the test has closed it.
func open(t *testing.T, dir, layout string) *Snapshotter {
	t.Helper()
	s, err := Open(dir, Options{Layout: layout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// onEach runs a test with every layout that works here.
func onEach(t *testing.T, test func(t *testing.T, s *Snapshotter)) {
	for _, layout := range []string{Overlay, Native} {
		t.Run(layout, func(t *testing.T) {
			if layout == Overlay {
				if err := overlay.Probe(t.TempDir()); err != nil {
					t.Skipf("needs overlayfs: %v", err)
				}
			}
			test(t, open(t, t.TempDir(), layout))
		})
	}
}

// prepare makes an active snapshot and returns the directory where its files go.
func prepare(t *testing.T, s *Snapshotter, key, parent string) string {
	t.Helper()
	if _, err := s.create(&snapshotsapi.Info{Name: key, Parent: parent, Kind: snapshotsapi.Kind_ACTIVE}); err != nil {
		t.Fatal(err)
	}
	snapshot, err := s.graph.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(s.path(snapshot.ID), "fs")
}

func commitOf(key, name string) graph.Commit { return graph.Commit{Key: key, Name: name} }

func directories(t *testing.T, s *Snapshotter) []string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(func(yield func(string) bool) {
		for _, entry := range entries {
			if !yield(entry.Name()) {
				return
			}
		}
	})
}

func TestLifeOfALayer(t *testing.T) {
	onEach(t, func(t *testing.T, s *Snapshotter) {
		dir := prepare(t, s, "extract", "")
		if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 32<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.commit(t.Context(), graph.Commit{Key: "extract", Name: "layer"}); err != nil {
			t.Fatal(err)
		}
		if size, inodes, err := s.usage(t.Context(), "layer"); err != nil || size < 32<<10 || inodes != 2 {
			t.Errorf("usage: %d bytes, %d inodes, %v", size, inodes, err)
		}
		if _, err := s.mounts("layer"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("mounts of a committed snapshot: %v", err)
		}
		prepare(t, s, "container", "layer")
		if mounts, err := s.mounts("container"); err != nil || len(mounts) != 1 {
			t.Errorf("mounts: %v, %v", mounts, err)
		}
		if err := s.remove("layer"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("remove of a parent: %v", err)
		}
		if err := errors.Join(s.remove("container"), s.remove("layer")); err != nil {
			t.Fatal(err)
		}
		s.remover.Wait()
		if left := directories(t, s); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}

func TestRefusedPrepareLeavesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, s *Snapshotter) {
		prepare(t, s, "there", "")
		for name, info := range map[string]*snapshotsapi.Info{
			"taken":       {Name: "there"},
			"no parent":   {Name: "x", Parent: "missing"},
			"active":      {Name: "x", Parent: "there"},
			"large label": {Name: "x", Labels: map[string]string{"k": strings.Repeat("v", 5000)}},
		} {
			info.Kind = snapshotsapi.Kind_ACTIVE
			if _, err := s.create(info); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		if got := directories(t, s); !slices.Equal(got, []string{"1"}) {
			t.Errorf("directories %v", got)
		}
	})
}

func TestOnlyOverlayRebases(t *testing.T) {
	onEach(t, func(t *testing.T, s *Snapshotter) {
		prepare(t, s, "extract-1", "")
		prepare(t, s, "extract-2", "")
		if err := s.commit(t.Context(), graph.Commit{Key: "extract-1", Name: "below"}); err != nil {
			t.Fatal(err)
		}
		err := s.commit(t.Context(), graph.Commit{Key: "extract-2", Name: "above", Parent: "below"})
		if s.Name() == Overlay && err != nil || s.Name() == Native && !errors.Is(err, errdefs.ErrUnimplemented) {
			t.Errorf("commit on a parent afterwards: %v", err)
		}
	})
}

func TestOpenRemovesWhatACrashLeft(t *testing.T) {
	onEach(t, func(t *testing.T, s *Snapshotter) {
		kept := prepare(t, s, "kept", "")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"2/fs/half", "7/fs", "probe-1/upper"} {
			if err := os.MkdirAll(filepath.Join(s.dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		again := open(t, filepath.Dir(s.dir), "")
		if again.Name() != s.Name() {
			t.Errorf("the layout changed to %q", again.Name())
		}
		again.remover.Wait()
		if got := directories(t, again); !slices.Equal(got, []string{"1"}) {
			t.Errorf("directories %v", got)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Error(err)
		}
		if next := prepare(t, again, "next", ""); filepath.Base(filepath.Dir(next)) != "8" {
			t.Errorf("the next one is %s", next)
		}
	})
}

func TestCleanupKeepsWhatIsBeingMade(t *testing.T) {
	s := open(t, t.TempDir(), Native)
	id, _, err := s.newDirectory()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Cleanup(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.path(id)); err != nil {
		t.Errorf("the directory of a snapshot that is being made: %v", err)
	}
	s.made(id)
	if err := s.Cleanup(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.path(id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a left-over directory: %v", err)
	}
}

func TestLayoutIsKept(t *testing.T) {
	dir := t.TempDir()
	if s := open(t, dir, Native); s.Close() != nil {
		t.Fatal("cannot close")
	}
	if s, err := Open(dir, Options{Layout: Overlay}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("another layout: %v, %v", s, err)
	}
	if s := open(t, dir, ""); s.Name() != Native {
		t.Errorf("layout %q", s.Name())
	}
	if s, err := Open(t.TempDir(), Options{Layout: "btrfs"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("unknown layout: %v, %v", s, err)
	}
	if s, err := Open(dir, Options{}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("a second open: %v, %v", s, err)
	}
}

// What a person can do about a damaged file is said, and the file is left alone.
func TestDamagedLayoutFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "layout")
	if err := os.WriteFile(path, []byte("\x00\x00over"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, wanted := range []string{"", Native} {
		if _, err := Open(dir, Options{Layout: wanted}); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "write overlay or native into it") {
			t.Errorf("%q: %v", wanted, err)
		}
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "\x00\x00over" {
		t.Errorf("it has become %q, %v", content, err)
	}
}
