// Package contentstore keeps immutable blobs by the digest of their content, and serves them as containerd's content
// and leases services. On disk a store is:
//
//	metadata.db              bbolt: which namespace holds which blob, labels, leases (schema.go)
//	blobs/sha256/<hex>       a committed blob, complete and never changed
//	ingests/<ns>/<hash>/     a blob on its way in, named by the SHA-256 of its ref
//	    state                who writes it, since when, how much is expected (a containerd.services.content.v1.Status)
//	    data                 what has arrived so far
//
// metadata.db decides what is there. Files beside it that can't be removed, and records or ingests that can't be read, are
// logged and passed over, so that they keep nothing else from working.
//
// A blob exists in a namespace when metadata.db says so. A commit first makes the data durable, then moves it under
// blobs/, then records it: a crash in between leaves a file that nothing refers to, which Open removes. A blob's file
// goes when the last namespace has let go of it.
//
// Every request acts in the namespace that its header names. A request without one sees all namespaces at once:
// containerd, with this store as a proxy plugin, keeps namespaces of its own and collects garbage across all of them. For
// the same reason a namespace without leases of ours can read the blobs of the others.
package contentstore

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/berthd/berth/internal/dbroom"
	"github.com/berthd/berth/internal/errdefs"
)

// Options adjust a store. The zero value is ready to use.
type Options struct {
	// Logger is told what a store repairs and collects. The default is slog.Default().
	Logger *slog.Logger
}

// Store is an open content store. Its methods are safe for concurrent use.
type Store struct {
	dir string
	db  *bbolt.DB
	log *slog.Logger

	// files is held by whoever makes metadata and the files under blobs/ change together, so that a commit never
	// records a file which a delete is about to unlink.
	files sync.Mutex

	mu      sync.Mutex
	writers map[ingestKey]*writer
}

// lockTimeout is how long Open waits for another process to let go of the same directory.
const lockTimeout = 3 * time.Second

// Open opens the store in dir, creating it if it is not there, and repairs what a crash left behind. A directory can
// be open only once: a second Open fails with ErrUnavailable.
func Open(dir string, options Options) (*Store, error) {
	if err := makeDirectories(dir); err != nil {
		return nil, fmt.Errorf("cannot create content store %q: %w", dir, err)
	}
	db, err := dbroom.Open(filepath.Join(dir, "metadata.db"), &bbolt.Options{
		Timeout:        lockTimeout,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		err = errdefs.As(errdefs.ErrUnavailable, errors.New("another process has it open"))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open content store %q: %w", dir, err)
	}
	if err := syncDir(dir); err != nil { // metadata.db may be new
		return nil, errors.Join(fmt.Errorf("cannot open content store %q: %w", dir, err), db.Close())
	}
	s := &Store{dir: dir, db: db, log: options.Logger, writers: map[ingestKey]*writer{}}
	if s.log == nil {
		s.log = slog.Default()
	}
	if err := s.repair(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot repair content store %q: %w", dir, err), db.Close())
	}
	if err := dbroom.Keep(s.db); err != nil {
		s.log.Warn("the content store has no room for deletions on a full disk", "error", err)
	}
	return s, nil
}

// Close waits for transactions under way and closes the store. Open ingests can be resumed after the next Open.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("cannot close content store %q: %w", s.dir, err)
	}
	return nil
}

// makeDirectories makes what a store consists of, durably: metadata.db must not survive a power failure without blobs/.
func makeDirectories(dir string) error {
	for _, d := range []string{dir, filepath.Join(dir, "blobs"), filepath.Join(dir, "ingests")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	return errors.Join(syncDir(filepath.Dir(dir)), syncDir(filepath.Join(dir, "blobs")))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ensureDir makes a directory in one that exists, durably.
func ensureDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return errors.Join(err, os.Remove(dir)) // or the next call would take it for durable
	}
	return nil
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
