package images

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/store"
)

func openTestIndex(t *testing.T) (*bbolt.DB, *index) {
	t.Helper()
	db, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	x, err := openIndex(db, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return db, x
}

func testRecord(digit string, names ...string) *record {
	r := &record{ID: "sha256:" + strings.Repeat(digit, 64), Raw: []byte(`{}`), Names: map[string]name{}}
	for _, n := range names {
		r.Names[n] = name{TaggedAt: time.Now()}
	}
	return r
}

const appName = "docker.io/library/app:latest"

// A crash between the two writes of a name that moves leaves it with both images. The one that got it last has it.
func TestNameThatMovesSurvivesACrash(t *testing.T) {
	db, x := openTestIndex(t)
	before, after := testRecord("1", appName), testRecord("2", appName)
	for _, r := range []*record{before, after} {
		if err := x.table.Put(r.ID, r); err != nil {
			t.Fatal(err)
		}
	}
	x, err := openIndex(db, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	got, err := x.find("app")
	if err != nil || got.record.ID != after.ID {
		t.Errorf("the name stands for %v, %v", got.record, err)
	}
	if old := x.images[before.ID]; len(old.Names) > 0 {
		t.Errorf("the image that lost the name has %v", old.Names)
	}
}

func TestPutMovesNamesAndKeepsOthers(t *testing.T) {
	db, x := openTestIndex(t)
	const other = "docker.io/library/other:latest"
	for _, r := range []*record{testRecord("1", appName, other), testRecord("2", appName)} {
		if updated, err := x.put(r); err != nil || !updated {
			t.Fatalf("updated %v, %v", updated, err)
		}
	}
	if updated, err := x.put(testRecord("2", appName)); err != nil || updated {
		t.Errorf("the same again: updated %v, %v", updated, err)
	}
	if updated, err := x.put(testRecord("1")); err != nil || updated {
		t.Errorf("an image without a new name: updated %v, %v", updated, err)
	}
	reopened, err := openIndex(db, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []*index{x, reopened} {
		for name, digit := range map[string]string{"app": "2", "other": "1"} {
			if got, err := x.find(name); err != nil || got.record.ID != "sha256:"+strings.Repeat(digit, 64) {
				t.Errorf("%s is %v, %v", name, got.record, err)
			}
		}
	}
}

func TestFindByBeginningOfID(t *testing.T) {
	_, x := openTestIndex(t)
	for _, digit := range []string{"a", "b"} {
		if _, err := x.put(testRecord(digit)); err != nil {
			t.Fatal(err)
		}
	}
	similar := testRecord("a")
	similar.ID = similar.ID[:len(similar.ID)-1] + "0"
	if _, err := x.put(similar); err != nil {
		t.Fatal(err)
	}
	if got, err := x.find("bbb"); err != nil || got.record.ID[7] != 'b' {
		t.Errorf("got %v, %v", got.record, err)
	}
	if _, err := x.find("aaa"); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("two images fit, and the error is %v", err)
	}
	if _, err := x.find("ccc"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("no image fits, and the error is %v", err)
	}
}
