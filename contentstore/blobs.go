package contentstore

import (
	"fmt"
	"os"
	"path/filepath"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/dbroom"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/labels"
)

// parseDigest checks a digest that a request names. A checked digest is safe as a file name.
func parseDigest(text string) (digest.Digest, error) {
	d, err := digest.Parse(text)
	if err != nil {
		return "", errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid digest %q: %w", text, err))
	}
	return d, nil
}

func (s *Store) blobPath(d digest.Digest) string {
	return filepath.Join(s.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

func noBlob(d digest.Digest) error {
	return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("content %s does not exist", d))
}

// find returns the record of a blob that the scope can change, and the namespace that it was found in.
func (sc scope) find(tx *bbolt.Tx, d digest.Digest) (info *contentapi.Info, namespace string, err error) {
	return findIn(tx, sc.visible(tx), d)
}

func findIn(tx *bbolt.Tx, namespaces []string, d digest.Digest) (info *contentapi.Info, namespace string, err error) {
	for _, namespace := range namespaces {
		info, err := getBlob(tx, namespace, d)
		if info != nil || err != nil {
			return info, namespace, err
		}
	}
	return nil, "", noBlob(d)
}

// info returns the record of a blob that the scope can read.
func (s *Store) info(sc scope, d digest.Digest) (info *contentapi.Info, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		info, _, err = findIn(tx, sc.readable(tx), d)
		return err
	})
	return info, err
}

func (s *Store) update(sc scope, info *contentapi.Info, mask []string) (updated *contentapi.Info, err error) {
	d, err := parseDigest(info.GetDigest())
	if err != nil {
		return nil, err
	}
	err = dbroom.Update(s.db, func(tx *bbolt.Tx) error {
		var namespace string
		if updated, namespace, err = sc.find(tx, d); err != nil {
			return err
		}
		if updated.Labels, err = labels.Update(updated.Labels, info.Labels, mask); err != nil {
			return fmt.Errorf("cannot update content %s: %w", d, err)
		}
		updated.UpdatedAt = timestamppb.Now()
		return putBlob(tx, namespace, updated)
	})
	return updated, err
}

// list returns the blobs that match, each once, as the first namespace that holds it knows it.
func (s *Store) list(sc scope, matches func(*contentapi.Info) bool) (infos []*contentapi.Info, err error) {
	seen := map[string]bool{}
	err = s.db.View(func(tx *bbolt.Tx) error {
		for _, namespace := range sc.visible(tx) {
			blobs := lookup(tx, []byte(namespace), bucketBlobs)
			if blobs == nil {
				continue
			}
			err := blobs.ForEach(func(key, value []byte) error {
				if seen[string(key)] {
					return nil
				}
				seen[string(key)] = true
				info, err := decodeBlob(key, value)
				switch {
				case err != nil:
					s.log.Warn("a blob can't be read", "error", err)
				case matches(info):
					infos = append(infos, info)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return infos, err
}

// delete makes the scope's namespaces let go of a blob.
func (s *Store) delete(sc scope, d digest.Digest) error {
	s.files.Lock()
	defer s.files.Unlock()
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if _, _, err := sc.find(tx, d); err != nil {
			return err
		}
		for _, namespace := range sc.visible(tx) {
			if err := dropBlob(tx, namespace, d); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.unlinkUnheld([]digest.Digest{d})
}

func dropBlob(tx *bbolt.Tx, namespace string, d digest.Digest) error {
	if blobs := lookup(tx, []byte(namespace), bucketBlobs); blobs != nil {
		return blobs.Delete([]byte(d))
	}
	return nil
}

// unlinkUnheld removes the files of those blobs that no namespace holds. A file that can't be removed is removed by a later
// Open. The caller holds s.files.
func (s *Store) unlinkUnheld(digests []digest.Digest) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		namespaces := allNamespaces(tx)
		for _, d := range digests {
			held := false
			for _, namespace := range namespaces {
				blobs := lookup(tx, []byte(namespace), bucketBlobs)
				held = held || blobs != nil && blobs.Get([]byte(d)) != nil
			}
			if held {
				continue
			}
			if err := os.Remove(s.blobPath(d)); err != nil && !missing(err) {
				s.discard(s.blobPath(d))
			}
		}
		return nil
	})
}

// open opens a blob for reading. Its content stays readable if it is deleted meanwhile.
func (s *Store) open(sc scope, d digest.Digest) (file *os.File, size int64, err error) {
	info, err := s.info(sc, d)
	if err != nil {
		return nil, 0, err
	}
	file, err = os.Open(s.blobPath(d))
	if missing(err) {
		return nil, 0, noBlob(d) // deleted since
	}
	return file, info.Size, err
}
