package contentstore

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
)

// The labels by which containerd's garbage collection is told what belongs together.
const (
	labelRoot       = "containerd.io/gc.root"        // on a blob: keep it, whoever refers to it
	labelRefContent = "containerd.io/gc.ref.content" // on a blob, also with ".<anything>" behind it: the digest it needs
	labelExpire     = "containerd.io/gc.expire"      // on a lease: when it ends (RFC 3339)
	labelFlat       = "containerd.io/gc.flat"        // on a lease: keep what it names, not what that refers to
)

// ingestAge is how long an ingest that nobody writes can be resumed, without a lease on it.
const ingestAge = 24 * time.Hour

// collected counts what a collection removed.
type collected struct {
	blobs, ingests, leases int
	bytes                  int64
}

// collect removes from one namespace every blob that neither a lease nor a gc.root label keeps, directly or through
// gc.ref.content labels. Marking and sweeping happen in one transaction, which no commit can be in the middle of; what
// an ingest brings after it is kept by the ingest's lease. The digests that ingests expect are marked too: their
// writers have been told, or will be, whether the blob is there.
func (s *Store) collect(namespace string, now time.Time) (collected, error) {
	s.files.Lock()
	defer s.files.Unlock()
	var count collected
	ingests, err := s.collectIngests(namespace, now, &count)
	if err != nil {
		return count, err
	}
	var dropped []digest.Digest
	err = s.db.Update(func(tx *bbolt.Tx) error {
		dropped = nil
		m := marking{tx: tx, namespace: namespace, now: now, kept: map[string]bool{}}
		for _, expected := range ingests {
			m.keep(expected, true)
		}
		if err := m.markRoots(); err != nil {
			return err
		}
		count.leases = m.expired
		return m.sweep(func(info *contentapi.Info) error {
			count.blobs++
			count.bytes += info.Size
			dropped = append(dropped, digest.Digest(info.Digest))
			return dropBlob(tx, namespace, digest.Digest(info.Digest))
		})
	})
	if err != nil {
		return collected{}, fmt.Errorf("cannot collect garbage in namespace %q: %w", namespace, err)
	}
	return count, s.unlinkUnheld(dropped)
}

// collectIngests removes forgotten ingests and returns the digests that the others expect.
func (s *Store) collectIngests(namespace string, now time.Time, count *collected) (expected []string, err error) {
	leased, err := s.leasedIngests(namespace, now)
	if err != nil {
		return nil, err
	}
	err = s.eachIngest(namespace, func(dir string, status *contentapi.Status) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		forgotten := now.Sub(status.UpdatedAt.AsTime()) > ingestAge
		if s.writers[ingestKey{namespace, status.Ref}] == nil && !leased[status.Ref] && forgotten {
			count.ingests++
			s.discard(dir)
			return nil
		}
		if status.Expected != "" {
			expected = append(expected, status.Expected)
		}
		return nil
	})
	return expected, err
}

func (s *Store) leasedIngests(namespace string, now time.Time) (refs map[string]bool, err error) {
	refs = map[string]bool{}
	err = s.db.View(func(tx *bbolt.Tx) error {
		return eachLease(tx, namespace, func(id []byte, labels map[string]string) error {
			if expired(labels, now) {
				return nil
			}
			prefix := resourceKey(resourceIngest, "")
			c := lookup(tx, []byte(namespace), bucketResources, id).Cursor()
			for key, _ := c.Seek(prefix); bytes.HasPrefix(key, prefix); key, _ = c.Next() {
				refs[string(key[len(prefix):])] = true
			}
			return nil
		})
	})
	return refs, err
}

func eachLease(tx *bbolt.Tx, namespace string, f func(id []byte, labels map[string]string) error) error {
	leases := lookup(tx, []byte(namespace), bucketLeases)
	if leases == nil {
		return nil
	}
	return leases.ForEach(func(id, value []byte) error {
		lease, _ := decodeLease(id, value)
		return f(id, lease.Labels) // one that can't be read has none, so it keeps what it holds
	})
}

// expired says whether a lease has ended. One whose label can't be read has not: it is better to keep too much.
func expired(labels map[string]string, now time.Time) bool {
	end, err := time.Parse(time.RFC3339, labels[labelExpire])
	return err == nil && now.After(end)
}

// marking is one mark-and-sweep over a namespace.
type marking struct {
	tx        *bbolt.Tx
	namespace string
	now       time.Time
	kept      map[string]bool // digest -> what it refers to is kept too
	expired   int
}

// markRoots ends expired leases, and marks what the others hold and what is labelled as a root.
func (m *marking) markRoots() error {
	var ended [][]byte
	err := eachLease(m.tx, m.namespace, func(id []byte, labels map[string]string) error {
		if expired(labels, m.now) {
			ended = append(ended, id)
			return nil
		}
		_, flat := labels[labelFlat]
		prefix := resourceKey(resourceContent, "")
		c := lookup(m.tx, []byte(m.namespace), bucketResources, id).Cursor()
		for key, _ := c.Seek(prefix); bytes.HasPrefix(key, prefix); key, _ = c.Next() {
			m.keep(string(key[len(prefix):]), !flat)
		}
		return nil
	})
	for _, id := range ended {
		err = errors.Join(err, dropLease(m.tx, m.namespace, bytes.Clone(id)))
		m.expired++
	}
	return errors.Join(err, m.eachBlob(func(info *contentapi.Info) error {
		if _, root := info.Labels[labelRoot]; root {
			m.keep(info.Digest, true)
		}
		return nil
	}))
}

// keep marks a blob and, with deep, all that it refers to.
func (m *marking) keep(d string, deep bool) {
	todo := []string{d}
	for len(todo) > 0 {
		d, todo = todo[len(todo)-1], todo[:len(todo)-1]
		if wasDeep, marked := m.kept[d]; marked && (wasDeep || !deep) {
			continue
		}
		m.kept[d] = deep
		if !deep {
			continue
		}
		info, err := getBlob(m.tx, m.namespace, digest.Digest(d))
		if err != nil || info == nil {
			continue
		}
		for key, value := range info.Labels {
			if key == labelRefContent || strings.HasPrefix(key, labelRefContent+".") || strings.HasPrefix(key, labelRefContent+"/") {
				todo = append(todo, value)
			}
		}
	}
}

// sweep calls remove for every blob that is not marked.
func (m *marking) sweep(remove func(*contentapi.Info) error) error {
	var garbage []*contentapi.Info // collected first: a bucket may not change while it is walked
	err := m.eachBlob(func(info *contentapi.Info) error {
		if _, kept := m.kept[info.Digest]; !kept {
			garbage = append(garbage, info)
		}
		return nil
	})
	for _, info := range garbage {
		if err == nil {
			err = remove(info)
		}
	}
	return err
}

func (m *marking) eachBlob(f func(*contentapi.Info) error) error {
	blobs := lookup(m.tx, []byte(m.namespace), bucketBlobs)
	if blobs == nil {
		return nil
	}
	return blobs.ForEach(func(key, value []byte) error {
		info, err := decodeBlob(key, value)
		if err != nil {
			return nil // Open drops it
		}
		return f(info)
	})
}
