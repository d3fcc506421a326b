// Package store keeps the manager's durable records in one bbolt file. A record is JSON inside an envelope that names
// the version of its layout, so that a later berthd can read what an earlier one wrote, and an earlier one refuses
// what it would misread.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/internal/dbroom"
	"github.com/berthd/berth/internal/errdefs"
)

// FileName of the database below the manager's root directory.
const FileName = "manager.db"

// lockTimeout bounds the wait for another process that has the file open: the lock on the root directory makes sure
// that no other berthd has.
const lockTimeout = 2 * time.Second

// Open opens the database in dir, and makes it if there is none.
func Open(dir string) (*bbolt.DB, error) {
	if err := os.MkdirAll(dir, 0o710); err != nil {
		return nil, fmt.Errorf("cannot make the root directory: %w", err)
	}
	path := filepath.Join(dir, FileName)
	db, err := dbroom.Open(path, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("cannot open database %q: another process has it open", path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open database %q: %w", path, err)
	}
	if err := atomicfile.SyncDir(dir); err != nil { // the file may be new
		return nil, errors.Join(fmt.Errorf("cannot open database %q: %w", path, err), db.Close())
	}
	_ = dbroom.Keep(db) // without the room only deletions on a full disk fail
	return db, nil
}

// Table is one bucket with records of one type.
type Table[T any] struct {
	db      *bbolt.DB
	bucket  []byte
	version int
}

type envelope struct {
	Version int             `json:"version"`
	Record  json.RawMessage `json:"record"`
}

// NewTable opens the table of that name, and makes it if there is none. The version is that of T's layout: records of
// an older one are read as they are (a field that is missing is empty), a newer one is an error.
func NewTable[T any](db *bbolt.DB, name string, version int) (*Table[T], error) {
	err := dbroom.Update(db, func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte(name))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make table %q: %w", name, err)
	}
	return &Table[T]{db: db, bucket: []byte(name), version: version}, nil
}

// Put writes a record; it is on disk when Put returns.
func (t *Table[T]) Put(key string, record *T) error {
	value, err := t.encode(record)
	if err != nil {
		return fmt.Errorf("cannot encode record %q of %s: %w", key, t.bucket, err)
	}
	err = dbroom.Update(t.db, func(tx *bbolt.Tx) error { return tx.Bucket(t.bucket).Put([]byte(key), value) })
	if err != nil {
		return fmt.Errorf("cannot write record %q of %s: %w", key, t.bucket, err)
	}
	return nil
}

// Get reads a record.
func (t *Table[T]) Get(key string) (*T, error) {
	var record *T
	err := t.db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(t.bucket).Get([]byte(key))
		if value == nil {
			return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("no record %q of %s", key, t.bucket))
		}
		var err error
		record, err = t.decode(value)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read record %q of %s: %w", key, t.bucket, err)
	}
	return record, nil
}

// Delete removes a record, or does nothing if there is none.
func (t *Table[T]) Delete(key string) error {
	err := t.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(t.bucket).Delete([]byte(key)) })
	if err != nil {
		return fmt.Errorf("cannot delete record %q of %s: %w", key, t.bucket, err)
	}
	return nil
}

// All reads every record. One that can't be read, or that check (if it is not nil) does not accept, keeps nothing else
// from being read: it is logged and moved to a table of its own, where a person can look at it. A record of a newer
// layout is an error, because an earlier berthd would destroy what it does not know.
func (t *Table[T]) All(log *slog.Logger, check func(*T) error) (map[string]*T, error) {
	records, damaged := map[string]*T{}, map[string]error{}
	err := t.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(t.bucket).ForEach(func(key, value []byte) error {
			record, err := t.decode(value)
			if err == nil && check != nil {
				err = check(record)
			}
			switch {
			case errors.Is(err, errdefs.ErrFailedPrecondition):
				return fmt.Errorf("record %q: %w", key, err)
			case err != nil:
				damaged[string(key)] = err
			default:
				records[string(key)] = record
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the records of %s: %w", t.bucket, err)
	}
	for key, err := range damaged {
		log.Error("a record can't be read: it is put aside", "table", string(t.bucket), "key", key, "error", err)
		if err := t.quarantine(key); err != nil {
			log.Warn("cannot put a damaged record aside", "table", string(t.bucket), "key", key, "error", err)
		}
	}
	return records, nil
}

// quarantine moves a record to the table with the damaged ones.
func (t *Table[T]) quarantine(key string) error {
	return dbroom.Update(t.db, func(tx *bbolt.Tx) error {
		aside, err := tx.CreateBucketIfNotExists([]byte(string(t.bucket) + ".damaged"))
		if err != nil {
			return err
		}
		from := tx.Bucket(t.bucket)
		if err := aside.Put([]byte(key), slices.Clone(from.Get([]byte(key)))); err != nil {
			return err
		}
		return from.Delete([]byte(key))
	})
}

func (t *Table[T]) encode(record *T) ([]byte, error) {
	raw, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	return json.Marshal(envelope{Version: t.version, Record: raw})
}

func (t *Table[T]) decode(value []byte) (*T, error) {
	var sealed envelope
	if err := json.Unmarshal(value, &sealed); err != nil {
		return nil, fmt.Errorf("not a record: %w", err)
	}
	if sealed.Version > t.version {
		return nil, errdefs.As(errdefs.ErrFailedPrecondition,
			fmt.Errorf("written by a newer berthd (layout %d, this one knows %d)", sealed.Version, t.version))
	}
	record := new(T)
	if err := json.Unmarshal(sealed.Record, record); err != nil {
		return nil, fmt.Errorf("not a record: %w", err)
	}
	return record, nil
}
