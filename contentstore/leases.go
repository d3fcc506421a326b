package contentstore

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strings"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/dbroom"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/labels"
)

// The types of resources that a lease can hold. Behind resourceSnapshots comes the name of a snapshotter. Snapshots are
// not ours to keep: we only remember that the lease holds them, and whoever removes snapshots asks with ListResources.
const (
	resourceContent   = "content"
	resourceIngest    = "ingests"
	resourceSnapshots = "snapshots/"
)

func noLease(id string) error {
	return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("lease %q does not exist", id))
}

func (s *Store) createLease(sc scope, id string, wanted map[string]string) (*leasesapi.Lease, error) {
	if id == "" {
		id = strings.ToLower(rand.Text())
	}
	if err := checkIdentifier("lease", id); err != nil {
		return nil, err
	}
	if err := labels.Check(wanted); err != nil {
		return nil, err
	}
	lease := &leasesapi.Lease{ID: id, CreatedAt: timestamppb.Now(), Labels: wanted}
	err := dbroom.Update(s.db, func(tx *bbolt.Tx) error {
		leases, err := ensure(tx, []byte(sc.namespace), bucketLeases)
		if err != nil {
			return err
		}
		if leases.Get([]byte(id)) != nil {
			return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("lease %q exists already", id))
		}
		if _, err := ensure(tx, []byte(sc.namespace), bucketResources, []byte(id)); err != nil {
			return err
		}
		return putMessage(leases, id, lease)
	})
	return lease, err
}

func (s *Store) deleteLease(sc scope, id string) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		if _, err := leaseBucket(tx, sc.namespace, id); err != nil {
			return err
		}
		return dropLease(tx, sc.namespace, []byte(id))
	})
}

func dropLease(tx *bbolt.Tx, namespace string, id []byte) error {
	if err := lookup(tx, []byte(namespace), bucketResources).DeleteBucket(id); err != nil {
		return err
	}
	return lookup(tx, []byte(namespace), bucketLeases).Delete(id)
}

func (s *Store) listLeases(sc scope, matches func(*leasesapi.Lease) bool) (found []*leasesapi.Lease, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		for _, namespace := range sc.visible(tx) {
			leases := lookup(tx, []byte(namespace), bucketLeases)
			if leases == nil {
				continue
			}
			err := leases.ForEach(func(id, value []byte) error {
				lease, err := decodeLease(id, value)
				if err != nil {
					s.log.Warn("a lease can't be read", "error", err)
				}
				if matches(lease) {
					found = append(found, lease)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return found, err
}

// leaseBucket returns the bucket of a lease's resources.
func leaseBucket(tx *bbolt.Tx, namespace, id string) (*bbolt.Bucket, error) {
	if bucket := lookup(tx, []byte(namespace), bucketResources, []byte(id)); bucket != nil && id != "" {
		return bucket, nil
	}
	return nil, noLease(id)
}

func addResource(tx *bbolt.Tx, namespace, lease, kind, id string) error {
	bucket, err := leaseBucket(tx, namespace, lease)
	if err != nil {
		return err
	}
	return bucket.Put(resourceKey(kind, id), nil)
}

func removeResource(tx *bbolt.Tx, namespace, lease, kind, id string) error {
	bucket, err := leaseBucket(tx, namespace, lease)
	if err != nil {
		return err
	}
	return bucket.Delete(resourceKey(kind, id))
}

func resourceKey(kind, id string) []byte { return []byte(kind + "\x00" + id) }

func (s *Store) resources(sc scope, lease string) (found []*leasesapi.Resource, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		bucket, err := leaseBucket(tx, sc.namespace, lease)
		if err != nil {
			return err
		}
		return bucket.ForEach(func(key, _ []byte) error {
			kind, id, _ := bytes.Cut(key, []byte{0})
			found = append(found, &leasesapi.Resource{Type: string(kind), ID: string(id)})
			return nil
		})
	})
	return found, err
}

// checkResource refuses what a lease can not hold, before it is kept for ever and protects nothing.
func checkResource(r *leasesapi.Resource) error {
	kind, id := r.GetType(), r.GetID()
	if id == "" || strings.ContainsRune(kind+id, 0) {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid resource %q of type %q", id, kind))
	}
	switch {
	case kind == resourceContent:
		_, err := parseDigest(id)
		return err
	case kind == resourceIngest:
		return nil
	case strings.HasPrefix(kind, resourceSnapshots) && len(kind) > len(resourceSnapshots):
		return nil
	}
	return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("resources of type %q: not implemented", kind))
}
