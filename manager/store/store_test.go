package store

import (
	"errors"
	"log/slog"
	"slices"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/berthd/berth/internal/errdefs"
)

type fruit struct{ Name string }

func TestRecordsSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	db, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	table, err := NewTable[fruit](db, "fruits", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"apple", "pear"} {
		if err := table.Put(name, &fruit{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Delete("pear"); err != nil {
		t.Fatal(err)
	}
	if err := table.Delete("pear"); err != nil {
		t.Fatalf("deleting twice: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	db, err = Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	table, err = NewTable[fruit](db, "fruits", 2)
	if err != nil {
		t.Fatal(err)
	}
	got, err := table.Get("apple")
	if err != nil || got.Name != "apple" {
		t.Fatalf("got %v, %v", got, err)
	}
	if _, err := table.Get("pear"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Fatalf("got %v, want not found", err)
	}
	all, err := table.All(slog.New(slog.DiscardHandler), nil)
	if err != nil || len(all) != 1 {
		t.Fatalf("got %v, %v", all, err)
	}
}

func TestNewerLayoutIsRefused(t *testing.T) {
	db, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	newer, err := NewTable[fruit](db, "fruits", 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := newer.Put("apple", &fruit{}); err != nil {
		t.Fatal(err)
	}
	older, err := NewTable[fruit](db, "fruits", 6)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := older.All(slog.New(slog.DiscardHandler), nil); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Fatalf("got %v, want a refusal", err)
	}
}

func TestDamagedRecordIsPutAside(t *testing.T) {
	db, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	table, err := NewTable[fruit](db, "fruits", 1)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte("fruits"))
		return errors.Join(bucket.Put([]byte("rotten"), []byte("{")), bucket.Put([]byte("odd"), []byte(`{"version":1,"record":7}`)))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"apple", "pear"} {
		if err := table.Put(name, &fruit{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		all, err := table.All(slog.New(slog.DiscardHandler), func(f *fruit) error {
			if f.Name == "pear" {
				return errors.New("a pear")
			}
			return nil
		})
		if err != nil || len(all) != 1 || all["apple"] == nil {
			t.Fatalf("got %v, %v", all, err)
		}
	}
	var aside []string
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("fruits.damaged")).ForEach(func(key, _ []byte) error {
			aside = append(aside, string(key))
			return nil
		})
	})
	if err != nil || !slices.Equal(aside, []string{"odd", "pear", "rotten"}) {
		t.Errorf("put aside are %q, %v", aside, err)
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	db, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if second, err := Open(dir); err == nil {
		_ = second.Close()
		t.Fatal("two processes could write one database")
	}
}
