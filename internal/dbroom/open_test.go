package dbroom

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// Whatever has happened to the file, its user is told which one it is and what to do, and the file is left as it is.
func TestDamagedDatabase(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "whole")
	db, err := Open(whole, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucket)
			if err != nil {
				return err
			}
			return b.Put([]byte("key"), make([]byte, 10000))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	noise := []byte(strings.Repeat("noise", page))
	for name, damage := range map[string][]byte{
		"text":            []byte("not a database\n"),
		"noise":           append(noise[:2*page:2*page], content[2*page:]...),
		"cut in the head": content[:100],
		"cut behind it":   content[:2*page],
		"noise in pages":  append(content[:2*page:2*page], []byte(strings.Repeat("\xff", len(content)-2*page))...),
	} {
		path := filepath.Join(t.TempDir(), "db")
		if err := os.WriteFile(path, damage, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(path, nil)
		if err == nil {
			_ = db.Close()
		}
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", name, err)
		}
		if kept, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(kept), string(damage)) {
			t.Errorf("%s: the file was changed: %v", name, err)
		}
	}
}
