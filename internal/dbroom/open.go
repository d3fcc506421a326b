package dbroom

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// Open is bbolt.Open with an error that says what a person can do where the file is damaged. Nothing is deleted.
func Open(path string, options *bbolt.Options) (db *bbolt.DB, err error) {
	info, err := os.Stat(path)
	wasThere := err == nil && info.Size() > 0
	// A file that was cut off faults where it is mapped, and some damage makes bbolt panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if value := recover(); value != nil {
			err = damaged(path, fmt.Errorf("%v", value))
		}
	}()
	db, err = bbolt.Open(path, 0o600, options)
	var pathError *os.PathError
	switch {
	case err == nil, errors.Is(err, bbolterrors.ErrTimeout), errors.As(err, &pathError), !wasThere:
		return db, err
	}
	return nil, damaged(path, err)
}

func damaged(path string, cause error) error {
	return fmt.Errorf("the database %q is damaged (%w): put a copy of it in its place, or move it away to begin anew, without what it knew", path, cause)
}
