// Package dbroom keeps room on the disk for a bbolt database, so that records can be deleted when the disk is full: that
// is how room comes back, and bbolt writes new pages even for a deletion.
package dbroom

import (
	"fmt"
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Room is how much can be written after all else on the disk is full: some hundred transactions on small records.
const Room = 1 << 20

// Keep reserves blocks for what the database has, holes included, and for Room bytes more. Call it after the database was
// opened and after transactions that made it larger; mostly it is one stat. A disk that has no such room, or a file system that
// reserves none, gives an error, and the database works without.
func Keep(db *bbolt.DB) error {
	var used int64
	if err := db.View(func(tx *bbolt.Tx) error {
		used = tx.Size()
		return nil
	}); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(db.Path(), &st); err != nil {
		return &os.PathError{Op: "stat", Path: db.Path(), Err: err}
	}
	// Half of it may be used up before it is renewed.
	if st.Blocks*512 >= used+Room/2 {
		return nil
	}
	// A descriptor of our own: bbolt does not give out its, and closing this one leaves its flock alone.
	file, err := os.OpenFile(db.Path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, used+Room); err != nil {
		return fmt.Errorf("cannot reserve room for %q: %w", db.Path(), err)
	}
	return nil
}
