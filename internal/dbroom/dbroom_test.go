package dbroom

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

var bucket = []byte("records")

// openOnDisk opens a database on a file system of that size. Keep is called as its users do.
func openOnDisk(t *testing.T, size string) (*bbolt.DB, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	db, err := bbolt.Open(filepath.Join(dir, "db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(bucket)
		return err
	})
	if err := errors.Join(err, Keep(db)); err != nil {
		t.Fatal(err)
	}
	return db, dir
}

func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecordsAreDeletedOnAFullDisk(t *testing.T) {
	for records := range 12 {
		t.Run(fmt.Sprintf("%d records", records), func(t *testing.T) {
			db, dir := openOnDisk(t, "16m")
			for i := range records {
				err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put(fmt.Append(nil, i), make([]byte, 900*(i+1))) })
				if err := errors.Join(err, Keep(db)); err != nil {
					t.Fatal(err)
				}
			}
			fill(t, filepath.Join(dir, "filler"))
			for i := range records {
				err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Delete(fmt.Append(nil, i)) })
				if err != nil {
					t.Errorf("record %d: %v", i, err)
				}
			}
		})
	}
}

// A deletion writes the neighbours of a record again, which can be of several MiB each: the most that a message of gRPC takes.
func TestLargeRecordsAreDeletedOnAFullDisk(t *testing.T) {
	for _, records := range []int{1, 2, 4, 7} {
		t.Run(fmt.Sprintf("%d records", records), func(t *testing.T) {
			db, dir := openOnDisk(t, "200m")
			err := Update(db, func(tx *bbolt.Tx) error { // one transaction, which leaves no free pages to the deletions
				var errs []error
				for i := range records {
					errs = append(errs, tx.Bucket(bucket).Put(fmt.Append(nil, i), make([]byte, 4<<20)))
				}
				return errors.Join(errs...)
			})
			if err != nil {
				t.Fatal(err)
			}
			fill(t, filepath.Join(dir, "filler"))
			for i := range records {
				err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Delete(fmt.Append(nil, i)) })
				if err != nil {
					t.Errorf("record %d: %v", i, err)
				}
			}
		})
	}
}

// Without Keep the next transaction that grows the file fails, which is what Keep is for.
func TestRoomIsRenewed(t *testing.T) {
	db, dir := openOnDisk(t, "16m")
	for i := range 8 {
		err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put(fmt.Append(nil, i), make([]byte, 700<<10)) })
		if err := errors.Join(err, Keep(db)); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, filepath.Join(dir, "filler"))
	err := db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucket([]byte("more"))
		if err != nil {
			return err
		}
		return bucket.Put([]byte("key"), make([]byte, minRoom/4))
	})
	if err != nil {
		t.Errorf("a transaction of a quarter of the room: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	if err := Keep(db); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
