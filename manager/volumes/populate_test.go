package volumes

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/manager/store"
)

func openTestService(t *testing.T) (*bbolt.DB, *Service) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: volumes keep the owners of files")
	}
	db, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := New(Config{DB: db, Dir: filepath.Join(t.TempDir(), "volumes"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return db, s
}

func reopen(t *testing.T, db *bbolt.DB, s *Service) *Service {
	t.Helper()
	again, err := New(Config{DB: db, Dir: s.cfg.Dir, Logger: s.cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o640)); err != nil {
		t.Fatal(err)
	}
}

func TestPopulateCopiesEverything(t *testing.T) {
	_, s := openTestService(t)
	root := t.TempDir()
	write(t, root+"/data/sub/file", "content")
	err := errors.Join(
		unix.Chmod(root+"/data", 0o1770), os.Chown(root+"/data", 5, 6), os.Link(root+"/data/sub/file", root+"/data/same"),
		os.Symlink("/etc/passwd", root+"/data/link"), unix.Mkfifo(root+"/data/pipe", 0o622), os.Symlink("/data", root+"/way"),
		unix.Mknod(root+"/data/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
	)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.Use(t.Context(), "v", "container")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Populate(t.Context(), "v", root, "/way"); err != nil {
		t.Fatal(err)
	}
	var top, one, two, null unix.Stat_t
	err = errors.Join(unix.Stat(dir, &top), unix.Stat(dir+"/same", &one), unix.Stat(dir+"/sub/file", &two), unix.Stat(dir+"/null", &null))
	if err != nil {
		t.Fatal(err)
	}
	if top.Mode&0o7777 != 0o1770 || top.Uid != 5 || top.Gid != 6 {
		t.Errorf("the top has mode %o and owner %d:%d", top.Mode&0o7777, top.Uid, top.Gid)
	}
	if one.Ino != two.Ino || one.Mode&0o777 != 0o640 || null.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("the files are %+v, %+v, the device %+v", one, two, null)
	}
	if target, err := os.Readlink(dir + "/link"); err != nil || target != "/etc/passwd" {
		t.Errorf("the link leads to %q, %v", target, err)
	}
}

// An image can't make a path lead to the host's files.
func TestPopulateStaysInTheImage(t *testing.T) {
	_, s := openTestService(t)
	outside, root := t.TempDir(), t.TempDir()
	write(t, outside+"/secret", "secret")
	if err := errors.Join(os.Symlink(outside, root+"/data"), os.Symlink("../../../../.."+outside, root+"/up")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/data", "/up", "/../../.." + outside, "/nothing"} {
		dir, err := s.Use(t.Context(), "v", "container")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Populate(t.Context(), "v", root, path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%s: the volume has %v, %v", path, entries, err)
		}
	}
}

func TestPopulateLeavesContentAlone(t *testing.T) {
	_, s := openTestService(t)
	root := t.TempDir()
	write(t, root+"/data/image", "1")
	dir, err := s.Use(t.Context(), "v", "container")
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/own", "2")
	if err := s.Populate(t.Context(), "v", root, "/data"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/image"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the image's file came too: %v", err)
	}
}
