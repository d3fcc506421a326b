package contentstore

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/internal/dbroom"
	"github.com/berthd/berth/internal/errdefs"
)

// ingestKey names an ingest: a ref belongs to its namespace.
type ingestKey struct{ namespace, ref string }

const maxRef = 8192

func checkRef(ref string) error {
	if ref == "" || len(ref) > maxRef {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("a ref must have 1 to %d bytes, not %d", maxRef, len(ref)))
	}
	return nil
}

func noIngest(ref string) error {
	return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("there is no ingest with ref %q", ref))
}

func (s *Store) ingestsDir(namespace string) string {
	return filepath.Join(s.dir, "ingests", namespace)
}

func (s *Store) ingestDir(key ingestKey) string {
	hash := sha256.Sum256([]byte(key.ref))
	return filepath.Join(s.ingestsDir(key.namespace), hex.EncodeToString(hash[:]))
}

// readState reads an ingest's status. The files of an ingest are not made durable: a power failure can leave a state that
// can't be read (ErrDataLoss), or data whose digest will not be right, and then the blob has to be sent again.
func readState(dir string) (*contentapi.Status, error) {
	content, err := os.ReadFile(filepath.Join(dir, "state"))
	if err != nil {
		return nil, err
	}
	status := &contentapi.Status{}
	if err := proto.Unmarshal(content, status); err != nil {
		return nil, errdefs.As(errdefs.ErrDataLoss, fmt.Errorf("cannot decode the state of ingest %q: %w", dir, err))
	}
	if status.Ref == "" {
		return nil, errdefs.As(errdefs.ErrDataLoss, fmt.Errorf("the state of ingest %q has no ref", dir))
	}
	if status.Expected != "" {
		if _, err := parseDigest(status.Expected); err != nil {
			return nil, errdefs.As(errdefs.ErrDataLoss, fmt.Errorf("cannot decode the state of ingest %q: %w", dir, err))
		}
	}
	info, err := os.Stat(filepath.Join(dir, "data"))
	if missing(err) {
		status.UpdatedAt = status.StartedAt
		return status, nil
	}
	if err != nil {
		return nil, err
	}
	status.Offset, status.UpdatedAt = info.Size(), timestamppb.New(info.ModTime())
	if status.UpdatedAt.AsTime().Before(status.StartedAt.AsTime()) { // the clock of files is coarser than that of the state
		status.UpdatedAt = status.StartedAt
	}
	return status, nil
}

func writeState(dir string, status *contentapi.Status) error {
	content, err := proto.Marshal(&contentapi.Status{
		Ref: status.Ref, StartedAt: status.StartedAt, Total: status.Total, Expected: status.Expected,
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return atomicfile.WriteVolatile(filepath.Join(dir, "state"), content, 0o600)
}

// ingestNamespaces returns the namespaces whose ingests the scope sees.
func (s *Store) ingestNamespaces(sc scope) ([]string, error) {
	if !sc.all {
		return []string{sc.namespace}, nil
	}
	directories, err := subdirectories(filepath.Join(s.dir, "ingests"))
	names := []string{sc.namespace}
	for _, name := range directories {
		if name != sc.namespace {
			names = append(names, name)
		}
	}
	return names, err
}

func (s *Store) status(sc scope, ref string) (*contentapi.Status, error) {
	namespaces, err := s.ingestNamespaces(sc)
	if err != nil {
		return nil, err
	}
	for _, namespace := range namespaces {
		key := ingestKey{namespace, ref}
		status, err := readState(s.ingestDir(key))
		switch {
		case missing(err):
		case errors.Is(err, errdefs.ErrDataLoss):
			s.log.Warn("an ingest can't be resumed", "ref", ref, "error", err)
		case err != nil:
			return nil, err
		default:
			s.observe(key, status)
			return status, nil
		}
	}
	return nil, noIngest(ref)
}

func (s *Store) statuses(sc scope, matches func(*contentapi.Status) bool) ([]*contentapi.Status, error) {
	namespaces, err := s.ingestNamespaces(sc)
	if err != nil {
		return nil, err
	}
	var found []*contentapi.Status
	for _, namespace := range namespaces {
		err := s.eachIngest(namespace, func(_ string, status *contentapi.Status) error {
			s.observe(ingestKey{namespace, status.Ref}, status)
			if matches(status) {
				found = append(found, status)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// observe adds to a status what the ingest's writer knows better than the file's time tells.
func (s *Store) observe(key ingestKey, status *contentapi.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.writers[key]; w != nil {
		if at := w.updated.Load(); at != nil {
			status.UpdatedAt = timestamppb.New(*at)
		}
	}
}

// eachIngest calls f for the ingests of a namespace. One that is committed or aborted meanwhile may be left out, and one
// whose state can't be read is.
func (s *Store) eachIngest(namespace string, f func(dir string, status *contentapi.Status) error) error {
	entries, err := os.ReadDir(s.ingestsDir(namespace))
	if err != nil && !missing(err) {
		return err
	}
	for _, entry := range entries {
		dir := filepath.Join(s.ingestsDir(namespace), entry.Name())
		status, err := readState(dir)
		if missing(err) {
			continue
		}
		if err != nil {
			s.log.Warn("an ingest can't be read", "error", err)
			continue
		}
		if err := f(dir, status); err != nil {
			return err
		}
	}
	return nil
}

// abort ends an ingest, also one that is being written: its writer fails from then on.
func (s *Store) abort(sc scope, ref string) error {
	namespaces, err := s.ingestNamespaces(sc)
	if err != nil {
		return err
	}
	found := false
	for _, namespace := range namespaces {
		key := ingestKey{namespace, ref}
		s.mu.Lock()
		_, err := os.Lstat(s.ingestDir(key))
		if err == nil {
			found = true
			if w := s.writers[key]; w != nil {
				w.aborted.Store(true)
			}
			err = os.RemoveAll(s.ingestDir(key))
		}
		s.mu.Unlock()
		if err != nil && !missing(err) {
			return err
		}
	}
	if !found {
		return noIngest(ref)
	}
	return nil
}

// begin opens a writer for a new or an interrupted ingest and locks its ref. expected may be empty and total 0 if they
// are not known.
func (s *Store) begin(sc scope, ref string, total int64, expected string) (w *writer, err error) {
	if err := checkRef(ref); err != nil {
		return nil, err
	}
	if expected != "" {
		if err := s.adopt(sc, expected); err != nil {
			return nil, err
		}
	}
	key := ingestKey{sc.namespace, ref}
	w = &writer{store: s, scope: sc, key: key, dir: s.ingestDir(key), since: time.Now()}
	if err := s.lock(w); err != nil {
		return nil, err
	}
	if err := w.open(total, expected); err != nil {
		s.unlock(w)
		return nil, fmt.Errorf("cannot open ingest %q: %w", ref, err)
	}
	return w, nil
}

// adopt fails with ErrAlreadyExists if the namespace holds the blob already, after adding it to the request's lease.
func (s *Store) adopt(sc scope, expected string) error {
	d, err := parseDigest(expected)
	if err != nil {
		return err
	}
	var info *contentapi.Info
	err = s.db.View(func(tx *bbolt.Tx) error {
		info, err = getBlob(tx, sc.namespace, d)
		return err
	})
	if err != nil || info == nil {
		return err
	}
	if sc.lease != "" {
		err = dbroom.Update(s.db, func(tx *bbolt.Tx) error {
			// It may have been collected since.
			if info, err = getBlob(tx, sc.namespace, d); err != nil || info == nil {
				return err
			}
			return sc.attach(tx, resourceContent, expected)
		})
	}
	if err != nil || info == nil {
		return err
	}
	return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("content %s exists already", d))
}

func (s *Store) lock(w *writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.writers[w.key]; other != nil {
		return errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("ref %q is locked: it has been written since %s",
			w.key.ref, other.since.Format(time.RFC3339)))
	}
	s.writers[w.key] = w
	return nil
}

func (s *Store) unlock(w *writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writers, w.key)
}
