package contentstore

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
)

// repair makes the files agree with the metadata after a crash: files that no namespace holds go, ingests that were
// only being made, committed or taken away go, and a blob whose file is lost is not claimed to be there.
func (s *Store) repair() error {
	files, err := s.blobFiles()
	if err != nil {
		return err
	}
	var lost []digest.Digest
	err = s.db.View(func(tx *bbolt.Tx) error {
		for _, namespace := range allNamespaces(tx) {
			blobs := lookup(tx, []byte(namespace), bucketBlobs)
			if blobs == nil {
				continue
			}
			err := blobs.ForEach(func(key, _ []byte) error {
				d := digest.Digest(key)
				if _, there := files[d]; there {
					files[d] = true
				} else {
					lost = append(lost, d)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for d, held := range files {
		if !held {
			s.log.Info("removing a file that no blob has", "digest", d)
			err = errors.Join(err, os.Remove(s.blobPath(d)))
		}
	}
	return errors.Join(err, s.forget(lost), s.repairIngests())
}

// blobFiles returns the blobs that have a file, as a map for marking those that are held.
func (s *Store) blobFiles() (map[digest.Digest]bool, error) {
	files := map[digest.Digest]bool{}
	algorithms, err := os.ReadDir(filepath.Join(s.dir, "blobs"))
	if err != nil {
		return nil, err
	}
	for _, algorithm := range algorithms {
		entries, err := os.ReadDir(filepath.Join(s.dir, "blobs", algorithm.Name()))
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			files[digest.NewDigestFromEncoded(digest.Algorithm(algorithm.Name()), entry.Name())] = false
		}
	}
	return files, nil
}

func (s *Store) forget(lost []digest.Digest) error {
	if len(lost) == 0 {
		return nil
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, d := range lost {
			s.log.Warn("a blob's file is lost; it has to be fetched again", "digest", d)
			for _, namespace := range allNamespaces(tx) {
				if err := dropBlob(tx, namespace, d); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (s *Store) repairIngests() error {
	dirs, err := filepath.Glob(filepath.Join(s.dir, "ingests", "*", "*"))
	for _, dir := range dirs {
		for _, name := range []string{"state", "data"} {
			if _, statErr := os.Stat(filepath.Join(dir, name)); missing(statErr) {
				err = errors.Join(err, os.RemoveAll(dir))
				break
			}
		}
	}
	return err
}
