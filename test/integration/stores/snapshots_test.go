package stores_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/berthd/berth/test/testenv"
)

// startSnapshots starts a snapshotter that has to use the given layout.
func startSnapshots(t *testing.T, layout string) *service {
	t.Helper()
	testenv.NeedRoot(t)
	return start(t, "berth-snapshotter", testenv.ShortDir(t), "--layout", layout)
}

func onEachLayout(t *testing.T, test func(t *testing.T, s *service)) {
	for _, layout := range []string{"overlay", "native"} {
		t.Run(layout, func(t *testing.T) { test(t, startSnapshots(t, layout)) })
	}
}

func (s *service) prepare(key, parent string) []*types.Mount {
	s.t.Helper()
	response, err := s.snapshots().Prepare(s.t.Context(), &snapshotsapi.PrepareSnapshotRequest{Key: key, Parent: parent})
	if err != nil {
		s.t.Fatalf("prepare %q on %q: %v", key, parent, err)
	}
	return response.Mounts
}

func (s *service) commit(key, name string) {
	s.t.Helper()
	_, err := s.snapshots().Commit(s.t.Context(), &snapshotsapi.CommitSnapshotRequest{Key: key, Name: name})
	if err != nil {
		s.t.Fatalf("commit %q as %q: %v", key, name, err)
	}
}

func (s *service) remove(key string) error {
	_, err := s.snapshots().Remove(s.t.Context(), &snapshotsapi.RemoveSnapshotRequest{Key: key})
	return err
}

// layer makes a committed snapshot whose files change writes.
func (s *service) layer(name, parent string, change func(root string)) {
	s.t.Helper()
	root, unmount := mount(s.t, s.prepare("making "+name, parent))
	change(root)
	unmount()
	s.commit("making "+name, name)
}

// names returns the snapshots that match.
func (s *service) names(ctx context.Context, filters ...string) []string {
	s.t.Helper()
	stream, err := s.snapshots().List(ctx, &snapshotsapi.ListSnapshotsRequest{Filters: filters})
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			s.t.Fatal(err)
		}
		for _, info := range response.Info {
			names = append(names, info.Name)
		}
	}
}

// mount mounts what the snapshotter answered, as any user of it does, and returns where and how to unmount it.
func mount(t testing.TB, mounts []*types.Mount) (root string, unmount func()) {
	t.Helper()
	if len(mounts) != 1 {
		t.Fatalf("want one mount, got %v", mounts)
	}
	m := mounts[0]
	root = filepath.Join(testenv.ShortDir(t), "m")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	switch m.Type {
	case "overlay":
		err = unix.Mount(m.Source, root, "overlay", 0, strings.Join(m.Options, ","))
	case "bind":
		err = unix.Mount(m.Source, root, "", unix.MS_BIND|unix.MS_REC, "")
		if err == nil && slices.Contains(m.Options, "ro") {
			err = unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
		}
	default:
		t.Fatalf("cannot mount %v", m)
	}
	if err != nil {
		t.Fatalf("mount %v: %v", m, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	return root, func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	}
}

// tree returns the paths below root, and the content of files.
func tree(t testing.TB, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name := strings.TrimPrefix(path, root)
		if entry.IsDir() {
			found[name+"/"] = ""
			return nil
		}
		content, err := os.ReadFile(path)
		found[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func wantTree(t testing.TB, root string, want map[string]string) {
	t.Helper()
	got := tree(t, root)
	for name, content := range want {
		if is, there := got[name]; !there || is != content {
			t.Errorf("%s is %q (there: %v), want %q", name, is, there, content)
		}
		delete(got, name)
	}
	if len(got) != 0 {
		t.Errorf("not expected: %v", got)
	}
}

func TestLayersStackAndContainersAreSeparate(t *testing.T) {
	onEachLayout(t, func(t *testing.T, s *service) {
		s.layer("one", "", func(root string) {
			writeFile(t, filepath.Join(root, "etc", "a"), "a of one")
			writeFile(t, filepath.Join(root, "etc", "b"), "b of one")
			writeFile(t, filepath.Join(root, "old", "x"), "x")
		})
		s.layer("two", "one", func(root string) {
			writeFile(t, filepath.Join(root, "etc", "b"), "b of two")
			if err := errors.Join(os.Remove(filepath.Join(root, "etc", "a")), os.RemoveAll(filepath.Join(root, "old"))); err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(root, "old", "y"), "y") // the directory is a new one: opaque
		})
		image := map[string]string{"/etc/": "", "/etc/b": "b of two", "/old/": "", "/old/y": "y"}
		first, _ := mount(t, s.prepare("container-1", "two"))
		second, unmountSecond := mount(t, s.prepare("container-2", "two"))
		wantTree(t, first, image)
		writeFile(t, filepath.Join(first, "etc", "b"), "mine")
		if err := os.Remove(filepath.Join(first, "old", "y")); err != nil {
			t.Fatal(err)
		}
		wantTree(t, first, map[string]string{"/etc/": "", "/etc/b": "mine", "/old/": ""})
		wantTree(t, second, image)

		// A container's tree needs nobody to serve it, and is found again by its key.
		unmountSecond()
		s.kill()
		wantTree(t, first, map[string]string{"/etc/": "", "/etc/b": "mine", "/old/": ""})
		s.start()
		response, err := s.snapshots().Mounts(t.Context(), &snapshotsapi.MountsRequest{Key: "container-2"})
		if err != nil {
			t.Fatal(err)
		}
		again, _ := mount(t, response.Mounts)
		wantTree(t, again, image)
	})
}

func TestWhiteoutHidesAFileOfALowerLayer(t *testing.T) {
	s := startSnapshots(t, "overlay")
	s.layer("one", "", func(root string) {
		writeFile(t, filepath.Join(root, "dir", "hidden"), "1")
		writeFile(t, filepath.Join(root, "dir", "shown"), "1")
	})
	// What whoever unpacks a layer makes of ".wh.hidden" in its archive: the device 0,0 in the layer's own directory.
	s.layer("two", "one", func(root string) {
		if err := os.Remove(filepath.Join(root, "dir", "hidden")); err != nil {
			t.Fatal(err)
		}
	})
	var stat unix.Stat_t
	if err := unix.Lstat(filepath.Join(s.Root, "snapshots", "2", "fs", "dir", "hidden"), &stat); err != nil ||
		stat.Mode&unix.S_IFMT != unix.S_IFCHR || stat.Rdev != 0 {
		t.Errorf("no whiteout in the layer: mode %o, device %d, %v", stat.Mode, stat.Rdev, err)
	}
	view, err := s.snapshots().View(t.Context(), &snapshotsapi.ViewSnapshotRequest{Key: "view", Parent: "two"})
	if err != nil {
		t.Fatal(err)
	}
	root, _ := mount(t, view.Mounts)
	wantTree(t, root, map[string]string{"/dir/": "", "/dir/shown": "1"})
	if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to a view: %v", err)
	}
}

func TestUsageCountsWhatALayerAdds(t *testing.T) {
	s := startSnapshots(t, "overlay")
	write := func(root string) {
		writeFile(t, filepath.Join(root, "file"), strings.Repeat("x", 1<<20))
		if err := os.Link(filepath.Join(root, "file"), filepath.Join(root, "link")); err != nil {
			t.Fatal(err)
		}
	}
	s.layer("one", "", write)
	s.layer("two", "one", func(root string) { writeFile(t, filepath.Join(root, "more"), strings.Repeat("x", 64<<10)) })
	for key, want := range map[string]struct{ least, most, inodes int64 }{
		"one": {1 << 20, 1<<20 + 64<<10, 2},
		"two": {64 << 10, 128 << 10, 2},
	} {
		usage, err := s.snapshots().Usage(t.Context(), &snapshotsapi.UsageRequest{Key: key})
		if err != nil || usage.Size < want.least || usage.Size > want.most || usage.Inodes != want.inodes {
			t.Errorf("usage of %q: %v, %v; want %+v", key, usage, err, want)
		}
	}
}

func TestRemoveGoesFromTheTopAndLeavesNothing(t *testing.T) {
	onEachLayout(t, func(t *testing.T, s *service) {
		s.layer("one", "", func(root string) { writeFile(t, filepath.Join(root, "a"), "a") })
		s.layer("two", "one", func(root string) { writeFile(t, filepath.Join(root, "b"), "b") })
		s.prepare("container", "two")
		wantCode(t, s.remove("one"), codes.FailedPrecondition)
		wantCode(t, s.remove("two"), codes.FailedPrecondition)
		for _, key := range []string{"container", "two", "one"} {
			if err := s.remove(key); err != nil {
				t.Errorf("remove %q: %v", key, err)
			}
		}
		wantCode(t, s.remove("one"), codes.NotFound)
		if _, err := s.snapshots().Cleanup(t.Context(), &snapshotsapi.CleanupRequest{}); err != nil {
			t.Fatal(err)
		}
		if left := files(t, filepath.Join(s.Root, "snapshots")); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}

func TestSnapshotLabelsAndFilters(t *testing.T) {
	s := startSnapshots(t, "native")
	s.layer("one", "", func(string) {})
	s.prepare("two", "one")
	_, err := s.snapshots().Update(t.Context(), &snapshotsapi.UpdateSnapshotRequest{
		Info:       &snapshotsapi.Info{Name: "two", Labels: map[string]string{"io.x/owner": "me"}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels.io.x/owner"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string][]string{
		`labels."io.x/owner"==me`: {"two"}, "kind==committed": {"one"}, "parent==one": {"two"}, `parent==""`: {"one"}, "parent": {"one", "two"},
	} {
		if got := s.names(t.Context(), filter); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
	_, err = s.snapshots().Prepare(t.Context(), &snapshotsapi.PrepareSnapshotRequest{Key: "x", Parent: "missing"})
	wantCode(t, err, codes.NotFound)
	_, err = s.snapshots().Prepare(t.Context(), &snapshotsapi.PrepareSnapshotRequest{Key: "two"})
	wantCode(t, err, codes.AlreadyExists)
}

// An overlay can't be another overlay's upper directory.
func TestCopiesWhereOverlayIsNotPossible(t *testing.T) {
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	for _, name := range []string{"lower", "upper", "work", "top"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	top := filepath.Join(dir, "top")
	options := "lowerdir=" + filepath.Join(dir, "lower") + ",upperdir=" + filepath.Join(dir, "upper") + ",workdir=" + filepath.Join(dir, "work")
	if err := unix.Mount("overlay", top, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(top, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := start(t, "berth-snapshotter", top)
	s.layer("one", "", func(root string) { writeFile(t, filepath.Join(root, "a"), "a") })
	mounts := s.prepare("two", "one")
	if mounts[0].Type != "bind" {
		t.Errorf("mounts %v, want a bind of a copy", mounts)
	}
	root, unmount := mount(t, mounts)
	wantTree(t, root, map[string]string{"/a": "a"})
	unmount()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	output, err := s.command("--layout", "overlay").CombinedOutput()
	if err == nil || !containsAll(string(output), s.Root, "native", "overlay") {
		t.Errorf("asked for overlay afterwards it said %q, %v", output, err)
	}
}

func TestOldSocketIsReplaced(t *testing.T) {
	s := startSnapshots(t, "native")
	s.kill() // leaves its socket
	if _, err := os.Stat(s.Address); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.start()
	if took := time.Since(began); took > startLimit/2 {
		t.Errorf("starting on an old socket took %v", took)
	}
	info, err := os.Stat(s.Address)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket mode %v, %v", info.Mode(), err)
	}
}
