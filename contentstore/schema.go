package contentstore

import (
	"fmt"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/berthd/berth/internal/errdefs"
)

// metadata.db. The values are the messages of the API, so that there is no second form of them:
//
//	v1/<namespace>/blobs/<digest>        containerd.services.content.v1.Info
//	              /leases/<id>           containerd.services.leases.v1.Lease
//	              /resources/<lease id>  a bucket: <type> NUL <id of the resource> -> nothing
//
// A namespace has the buckets leases and resources from its first lease on, and for ever: without them its leases are
// known to be somebody else's (see scope.checkLease).
var ( // constant, as far as Go lets a byte slice be
	bucketVersion   = []byte("v1")
	bucketBlobs     = []byte("blobs")
	bucketLeases    = []byte("leases")
	bucketResources = []byte("resources")
)

// lookup returns the bucket at path, or nil if a part of it is missing.
func lookup(tx *bbolt.Tx, path ...[]byte) *bbolt.Bucket {
	b := tx.Bucket(bucketVersion)
	for _, name := range path {
		if b == nil {
			return nil
		}
		b = b.Bucket(name)
	}
	return b
}

// ensure returns the bucket at path and makes what is missing of it.
func ensure(tx *bbolt.Tx, path ...[]byte) (*bbolt.Bucket, error) {
	b, err := tx.CreateBucketIfNotExists(bucketVersion)
	for _, name := range path {
		if err != nil {
			return nil, err
		}
		b, err = b.CreateBucketIfNotExists(name)
	}
	return b, err
}

// allNamespaces returns the namespaces that exist in tx, in order.
func allNamespaces(tx *bbolt.Tx) []string {
	var names []string
	if root := tx.Bucket(bucketVersion); root != nil {
		_ = root.ForEachBucket(func(name []byte) error { // fails only if the function does
			names = append(names, string(name))
			return nil
		})
	}
	return names
}

// getBlob returns the record of a blob in one namespace, or nil if the namespace does not hold it.
func getBlob(tx *bbolt.Tx, namespace string, d digest.Digest) (*contentapi.Info, error) {
	blobs := lookup(tx, []byte(namespace), bucketBlobs)
	if blobs == nil {
		return nil, nil
	}
	value := blobs.Get([]byte(d))
	if value == nil {
		return nil, nil
	}
	return decodeBlob([]byte(d), value)
}

func decodeBlob(key, value []byte) (*contentapi.Info, error) {
	info := &contentapi.Info{}
	if err := proto.Unmarshal(value, info); err != nil {
		return nil, errdefs.As(errdefs.ErrDataLoss, fmt.Errorf("cannot decode the record of blob %q: %w", key, err))
	}
	return info, nil
}

func putBlob(tx *bbolt.Tx, namespace string, info *contentapi.Info) error {
	blobs, err := ensure(tx, []byte(namespace), bucketBlobs)
	if err != nil {
		return err
	}
	return putMessage(blobs, info.Digest, info)
}

// decodeLease returns a lease, with its ID also if the record can't be read, so that it can be deleted.
func decodeLease(key, value []byte) (*leasesapi.Lease, error) {
	lease := &leasesapi.Lease{}
	if err := proto.Unmarshal(value, lease); err != nil {
		return &leasesapi.Lease{ID: string(key)}, errdefs.As(errdefs.ErrDataLoss, fmt.Errorf("cannot decode the record of lease %q: %w", key, err))
	}
	return lease, nil
}

func putMessage(b *bbolt.Bucket, key string, m proto.Message) error {
	value, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), value)
}
