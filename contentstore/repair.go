package contentstore

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"github.com/berthd/berth/internal/tree"
)

// repair makes the files agree with the metadata after a crash: files that no namespace holds go, ingests that can't be
// resumed go, and a blob whose file or record is lost is not claimed to be there. What can't be removed now is logged;
// it stays until another Open.
func (s *Store) repair() error {
	files, err := s.blobFiles()
	if err != nil {
		return err
	}
	lost, err := s.lostBlobs(files)
	if err != nil {
		return err
	}
	for d, held := range files {
		if !held {
			s.log.Info("removing a file that no blob has", "digest", d)
			s.discard(s.blobPath(d))
		}
	}
	if err := s.forget(lost); err != nil {
		s.log.Error("blobs without a file are still listed", "error", err)
	}
	s.repairIngests()
	return nil
}

// discard removes a file or an ingest that nothing needs any more.
func (s *Store) discard(path string) {
	if err := tree.Remove(context.Background(), path); err != nil {
		s.log.Warn("a file that nothing needs is left; it is removed at the next start", "error", err)
	}
}

// blobFiles returns the blobs that have a file, as a map for marking those that are held. What is not named like a blob
// is none of the store's and left alone.
func (s *Store) blobFiles() (map[digest.Digest]bool, error) {
	files := map[digest.Digest]bool{}
	algorithms, err := os.ReadDir(filepath.Join(s.dir, "blobs"))
	if err != nil {
		return nil, err
	}
	for _, algorithm := range algorithms {
		if !algorithm.IsDir() {
			s.log.Warn("an odd file among the blobs is left alone", "name", algorithm.Name())
			continue
		}
		entries, err := os.ReadDir(filepath.Join(s.dir, "blobs", algorithm.Name()))
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm.Name()), entry.Name())
			switch {
			case d.Validate() != nil:
				s.log.Warn("an odd file among the blobs is left alone", "name", filepath.Join(algorithm.Name(), entry.Name()))
			case !entry.Type().IsRegular():
				s.discard(s.blobPath(d))
			default:
				files[d] = false
			}
		}
	}
	return files, nil
}

// lostBlobs marks the files that are held and returns the blobs that lack a file or a record that can be read.
func (s *Store) lostBlobs(files map[digest.Digest]bool) (lost []digest.Digest, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		for _, namespace := range allNamespaces(tx) {
			blobs := lookup(tx, []byte(namespace), bucketBlobs)
			if blobs == nil {
				continue
			}
			err := blobs.ForEach(func(key, value []byte) error {
				d := digest.Digest(key)
				_, there := files[d]
				_, err := decodeBlob(key, value)
				if err != nil || !there {
					lost = append(lost, d)
					return nil
				}
				files[d] = true
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return lost, err
}

// forget drops the records of blobs in each namespace where they are lost.
func (s *Store) forget(lost []digest.Digest) error {
	if len(lost) == 0 {
		return nil
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, d := range lost {
			s.log.Warn("a blob's file or record is lost; it has to be fetched again", "digest", d)
			for _, namespace := range allNamespaces(tx) {
				if err := dropBlob(tx, namespace, d); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// repairIngests removes what can't be resumed: it was only being made, committed or removed at the crash, or a power
// failure has damaged its state.
func (s *Store) repairIngests() {
	namespaces, err := subdirectories(filepath.Join(s.dir, "ingests"))
	if err != nil {
		s.log.Error("cannot look for damaged ingests", "error", err)
	}
	for _, namespace := range namespaces {
		entries, err := os.ReadDir(s.ingestsDir(namespace))
		if err != nil {
			s.log.Error("cannot look for damaged ingests", "error", err)
		}
		for _, entry := range entries {
			dir := filepath.Join(s.ingestsDir(namespace), entry.Name())
			status, err := readState(dir)
			whole := err == nil && dir == s.ingestDir(ingestKey{namespace, status.Ref})
			if _, statErr := os.Stat(filepath.Join(dir, "data")); whole && statErr == nil {
				continue
			}
			s.log.Info("removing an ingest that can't be resumed", "path", dir)
			s.discard(dir)
		}
	}
}

// subdirectories returns the names of the directories in dir.
func subdirectories(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		if entry.Type()&fs.ModeType == fs.ModeDir {
			names = append(names, entry.Name())
		}
	}
	return names, err
}
