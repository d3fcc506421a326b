// Package dbroom keeps room on the disk for a bbolt database, so that records can be deleted when the disk is full: that
// is how room comes back, and bbolt writes new pages even for a deletion.
package dbroom

import (
	"errors"
	"fmt"
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// minRoom and maxRoom bound how much can be written after all else on the disk is full. The first is some hundred
// transactions on small records. The second is for records of 4 MiB, the most that a message of gRPC takes: a deletion
// writes the pages beside the record again, and there are up to eight such records on them.
const (
	minRoom = 1 << 20
	maxRoom = 64 << 20
)

// room is what a database of that size keeps: twice as much as one deletion can write, which is never more than the
// database has. Half of the room may be used up before it is renewed.
func room(used int64) int64 { return min(max(minRoom, 2*used), maxRoom) }

// Update is the database's Update, and Keep after it: for transactions that may make the database larger.
func Update(db *bbolt.DB, change func(*bbolt.Tx) error) error {
	err := db.Update(change)
	if err == nil {
		_ = Keep(db) // without the room only deletions on a full disk fail
	}
	return err
}

// Keep reserves blocks for what the database has, holes included, and for its room. Call it after the database was
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
	wanted := room(used)
	if st.Blocks*512 >= used+wanted/2 {
		return nil
	}
	// A descriptor of our own: bbolt does not give out its, and closing this one leaves its flock alone.
	file, err := os.OpenFile(db.Path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	err = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, used+wanted)
	for errors.Is(err, unix.ENOSPC) && wanted > minRoom { // less than wanted is better than nothing
		wanted = max(minRoom, wanted/2)
		err = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, used+wanted)
	}
	if err != nil {
		return fmt.Errorf("cannot reserve room for %q: %w", db.Path(), err)
	}
	return nil
}
