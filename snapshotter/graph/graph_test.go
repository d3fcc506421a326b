package graph

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"go.etcd.io/bbolt"

	"github.com/berthd/berth/internal/errdefs"
)

func openGraph(t *testing.T) *Graph {
	t.Helper()
	g, err := Open(filepath.Join(t.TempDir(), "metadata.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// insert records an active snapshot with the next id.
func insert(g *Graph, name, parent string) error {
	last, err := g.LastID()
	if err != nil {
		return err
	}
	s, err := g.Plan(last+1, &snapshotsapi.Info{Name: name, Parent: parent, Kind: snapshotsapi.Kind_ACTIVE})
	if err != nil {
		return err
	}
	return g.Insert(s)
}

// chain makes committed snapshots, each on the one before.
func chain(t *testing.T, g *Graph, names ...string) {
	t.Helper()
	parent := ""
	for _, name := range names {
		if err := errors.Join(insert(g, "making "+name, parent), g.Commit(Commit{Key: "making " + name, Name: name})); err != nil {
			t.Fatal(err)
		}
		parent = name
	}
}

func TestChain(t *testing.T) {
	g := openGraph(t)
	chain(t, g, "bottom", "middle", "top")
	if err := insert(g, "container", "top"); err != nil {
		t.Fatal(err)
	}
	s, err := g.Get("container")
	if err != nil || s.ID != 4 || !slices.Equal(s.Parents, []uint64{3, 2, 1}) || s.Info.Parent != "top" {
		t.Errorf("container is %+v, %v", s, err)
	}
	var names []string
	err = g.Walk(func(s Snapshot, err error) {
		if err != nil {
			t.Error(err)
		}
		names = append(names, s.Info.Name)
	})
	if want := []string{"bottom", "container", "middle", "top"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("walked %v, %v; want %v", names, err, want)
	}
}

// TestUnreadableRecord has a record that is damaged and one that is cut off among others.
func TestUnreadableRecord(t *testing.T) {
	g := openGraph(t)
	chain(t, g, "a", "damaged")
	chain(t, g, "b", "short")
	err := g.db.Update(func(tx *bbolt.Tx) error {
		snapshots := tx.Bucket(bucketSnapshots)
		value := slices.Clone(snapshots.Get([]byte("damaged")))
		value[headerSize] = 0xff
		return errors.Join(snapshots.Put([]byte("damaged"), value), snapshots.Put([]byte("short"), []byte{1}))
	})
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	err = g.Walk(func(s Snapshot, err error) {
		seen = append(seen, fmt.Sprintf("%s %d %t", s.Info.Name, s.ID, errors.Is(err, errdefs.ErrDataLoss)))
	})
	if want := []string{"a 1 false", "b 3 false", "damaged 2 true", "short 0 true"}; err != nil || !slices.Equal(seen, want) {
		t.Errorf("walked %v, %v; want %v", seen, err, want)
	}
	if _, err := g.Get("damaged"); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("get: %v", err)
	}
	for _, name := range []string{"damaged", "short", "a", "b"} { // the parents last: nothing may stand on them any more
		if _, err := g.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

func TestRemoveGoesFromTheTop(t *testing.T) {
	g := openGraph(t)
	chain(t, g, "a", "ab", "abc")
	for _, name := range []string{"a", "ab"} {
		if _, err := g.Remove(name); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "child") {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	for i, name := range []string{"abc", "ab", "a"} {
		if id, err := g.Remove(name); err != nil || id != uint64(3-i) {
			t.Errorf("remove %q: id %d, %v", name, id, err)
		}
	}
	if _, err := g.Remove("a"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a second remove: %v", err)
	}
	if err := insert(g, "new", ""); err != nil {
		t.Fatal(err)
	}
	if s, err := g.Get("new"); err != nil || s.ID != 4 {
		t.Errorf("an id was given again: %+v, %v", s, err)
	}
}

func TestCommitOnAParentAfterwards(t *testing.T) {
	g := openGraph(t)
	chain(t, g, "below")
	if err := errors.Join(insert(g, "free", ""), insert(g, "bound", "below")); err != nil {
		t.Fatal(err)
	}
	if err := g.Commit(Commit{Key: "free", Name: "above", Parent: "below", Labels: map[string]string{"k": "v"}, Size: 7, Inodes: 3}); err != nil {
		t.Fatal(err)
	}
	s, err := g.Get("above")
	if err != nil || s.Info.Parent != "below" || s.Size != 7 || s.Inodes != 3 || s.Info.Labels["k"] != "v" || len(s.Parents) != 1 {
		t.Errorf("above is %+v, %v", s, err)
	}
	if err := g.Commit(Commit{Key: "bound", Name: "x", Parent: "above"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("moving to another parent: %v", err)
	}
	if _, err := g.Get("bound"); err != nil {
		t.Errorf("a refused commit changed the graph: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	g := openGraph(t)
	chain(t, g, "committed")
	if err := insert(g, "active", ""); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ err, want error }{
		"name taken":          {insert(g, "active", ""), errdefs.ErrAlreadyExists},
		"no name":             {insert(g, "", ""), errdefs.ErrInvalidArgument},
		"NUL in name":         {insert(g, "a\x00b", ""), errdefs.ErrInvalidArgument},
		"long name":           {insert(g, strings.Repeat("n", maxName+1), ""), errdefs.ErrInvalidArgument},
		"parent missing":      {insert(g, "x", "missing"), errdefs.ErrNotFound},
		"parent active":       {insert(g, "x", "active"), errdefs.ErrFailedPrecondition},
		"commit of nothing":   {g.Commit(Commit{Key: "missing", Name: "x"}), errdefs.ErrNotFound},
		"commit to no name":   {g.Commit(Commit{Key: "active"}), errdefs.ErrInvalidArgument},
		"commit to a name":    {g.Commit(Commit{Key: "active", Name: "committed"}), errdefs.ErrAlreadyExists},
		"commit of committed": {g.Commit(Commit{Key: "committed", Name: "x"}), errdefs.ErrFailedPrecondition},
		"parent of commit":    {g.Commit(Commit{Key: "active", Name: "x", Parent: "missing"}), errdefs.ErrNotFound},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("%s: %v, want %v", name, test.err, test.want)
		}
	}
}

// Between Plan and Insert the directory is made, which takes time: what was planned may have become impossible.
func TestInsertLooksAgain(t *testing.T) {
	g := openGraph(t)
	chain(t, g, "parent")
	s, err := g.Plan(10, &snapshotsapi.Info{Name: "x", Parent: "parent", Kind: snapshotsapi.Kind_ACTIVE})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Remove("parent"); err != nil {
		t.Fatal(err)
	}
	if err := g.Insert(s); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("insert on a parent that is gone: %v", err)
	}
	chain(t, g, "parent")
	if err := g.Insert(s); !errors.Is(err, errdefs.ErrAborted) {
		t.Errorf("insert on a parent that was replaced: %v", err)
	}
}

func TestUpdateChangesLabelsOnly(t *testing.T) {
	g := openGraph(t)
	chain(t, g, "a", "b")
	info, err := g.Update(&snapshotsapi.Info{Name: "b", Parent: "ignored", Labels: map[string]string{"k": "v"}}, []string{"labels.k"})
	if err != nil || info.Labels["k"] != "v" || info.Parent != "a" {
		t.Errorf("got %v, %v", info, err)
	}
	if _, err := g.Update(&snapshotsapi.Info{Name: "b", Parent: "x"}, []string{"parent"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("changing the parent: %v", err)
	}
	if _, err := g.Remove("b"); err != nil {
		t.Error(err)
	}
}
