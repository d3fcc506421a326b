package store

import (
	"errors"
	"testing"

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
	all, err := table.All()
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
	if _, err := older.All(); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Fatalf("got %v, want a refusal", err)
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
