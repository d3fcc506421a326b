// Package unpack makes snapshots of an image's layers.
//
// A layer is a tar archive from a stranger. It is applied inside the snapshot's own mount, which is visible to nobody
// and goes with the process, every path is resolved by the kernel with that mount as its root, and what it may take
// is bounded. The snapshot is committed only if the archive has the digest that the image's configuration promises.
package unpack

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/grpcstatus"
	"github.com/berthd/berth/manager/blobs"
	"github.com/berthd/berth/manager/mounts"
)

// KeyPrefix begins the key of every snapshot that a layer is being unpacked into.
const KeyPrefix = "extract-"

// Unpacker unpacks layers out of a content store into a snapshotter.
type Unpacker struct {
	Content   *blobs.Store
	Snapshots snapshotsapi.SnapshotsClient
	// Snapshotter is the name that goes into each request.
	Snapshotter string
	// Daemon is the ID of the daemon, which its snapshots carry.
	Daemon string
	Limits Limits
}

// Layer is one layer to unpack, on top of those below it.
type Layer struct {
	// Parent is the chain ID of the layers below. Empty: none.
	Parent     string
	Descriptor ocispec.Descriptor
	DiffID     digest.Digest
	// Progress, if set, is told how many bytes of the compressed layer are done.
	Progress func(current int64)
}

// ChainID returns the key of the snapshot that the layer becomes.
func (l Layer) ChainID() string {
	if l.Parent == "" {
		return l.DiffID.String()
	}
	return ChainID([]digest.Digest{digest.Digest(l.Parent), l.DiffID})
}

// ChainID returns the key of the snapshot that holds the layers diffIDs, lowest first. Empty: no layers.
func ChainID(diffIDs []digest.Digest) string {
	return identity.ChainID(diffIDs).String()
}

// ChainIDs returns the key of the snapshot of each layer with those below it.
func ChainIDs(diffIDs []digest.Digest) []string {
	chains := make([]string, len(diffIDs))
	for i, chain := range identity.ChainIDs(slices.Clone(diffIDs)) {
		chains[i] = chain.String()
	}
	return chains
}

// Claim tells whether a chain of layers is unpacked, and if so marks its last layer as this daemon's.
func (u *Unpacker) Claim(ctx context.Context, chainID string) (there bool, err error) {
	ctx = blobs.WithNamespace(ctx)
	stat, err := u.Snapshots.Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: u.Snapshotter, Key: chainID})
	if err == nil && stat.GetInfo().GetLabels()[OwnerLabel(u.Daemon)] == "" {
		labels := ownedBy(u.Daemon)
		var paths []string
		for key := range labels {
			paths = append(paths, "labels."+key)
		}
		_, err = u.Snapshots.Update(ctx, &snapshotsapi.UpdateSnapshotRequest{
			Snapshotter: u.Snapshotter, Info: &snapshotsapi.Info{Name: chainID, Labels: labels}, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
		})
	}
	err = grpcstatus.Error(err)
	if errors.Is(err, errdefs.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot find snapshot %s: %w", chainID, err)
	}
	return true, nil
}

// Unpack makes the snapshot of a layer and returns its key, the chain ID. One that is there already is left alone.
func (u *Unpacker) Unpack(ctx context.Context, layer Layer) (chainID string, err error) {
	chainID = layer.ChainID()
	if exists, err := u.Claim(ctx, chainID); err != nil || exists {
		return chainID, err
	}
	var undo cleanup.Stack
	defer func() { err = undo.Run(ctx, err) }()
	key := KeyPrefix + rand.Text() + " " + chainID
	// A call given up half way leaves it open whether the snapshotter goes on to make the snapshot, after it was undone. Of a
	// snapshotter that hangs the next collection removes it.
	lasting, cancel := blobs.Lasting(ctx)
	defer cancel()
	prepared, err := u.Snapshots.Prepare(blobs.WithNamespace(lasting), &snapshotsapi.PrepareSnapshotRequest{
		Snapshotter: u.Snapshotter, Key: key, Parent: layer.Parent, Labels: withTarget(ownedBy(u.Daemon), chainID),
	})
	if err = grpcstatus.Error(err); errors.Is(err, errdefs.ErrAlreadyExists) {
		// The key is new: it is the target that exists, made by another client or by a snapshotter that fetches layers itself.
		exists, claimErr := u.Claim(ctx, chainID)
		if claimErr != nil || exists {
			return chainID, claimErr
		}
	}
	if err != nil {
		return "", fmt.Errorf("cannot prepare a snapshot for layer %s: %w", layer.Descriptor.Digest, err)
	}
	undo.Add(func(ctx context.Context) error { return u.remove(ctx, key) })
	root, err := mounts.Open(prepared.GetMounts())
	if err != nil {
		return "", err
	}
	err = u.apply(ctx, root, layer)
	if err == nil {
		// A power failure after the commit must not leave empty files behind a snapshot that says it is complete.
		err = os.NewSyscallError("syncfs", unix.Syncfs(int(root.Fd())))
	}
	if err := errors.Join(err, root.Close()); err != nil {
		return "", fmt.Errorf("cannot unpack layer %s: %w", layer.Descriptor.Digest, err)
	}
	_, err = u.Snapshots.Commit(blobs.WithNamespace(lasting), &snapshotsapi.CommitSnapshotRequest{
		Snapshotter: u.Snapshotter, Name: chainID, Key: key, Labels: withTarget(ownedBy(u.Daemon), chainID),
	})
	err = grpcstatus.Error(err)
	if errors.Is(err, errdefs.ErrAlreadyExists) { // another client was faster
		exists, claimErr := u.Claim(ctx, chainID)
		if exists && claimErr == nil {
			return chainID, u.remove(ctx, key)
		}
		err = errors.Join(err, claimErr)
	}
	if err != nil {
		return "", fmt.Errorf("cannot commit the snapshot of layer %s: %w", layer.Descriptor.Digest, err)
	}
	return chainID, nil
}

func (u *Unpacker) remove(ctx context.Context, key string) error {
	_, err := u.Snapshots.Remove(blobs.WithNamespace(ctx), &snapshotsapi.RemoveSnapshotRequest{Snapshotter: u.Snapshotter, Key: key})
	err = grpcstatus.Error(err)
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return fmt.Errorf("cannot remove snapshot %q: %w", key, err)
	}
	return nil
}

// Sizes returns how much each layer of a chain takes on disk.
func (u *Unpacker) Sizes(ctx context.Context, diffIDs []digest.Digest) ([]int64, error) {
	sizes := make([]int64, len(diffIDs))
	for i, key := range ChainIDs(diffIDs) {
		usage, err := u.Snapshots.Usage(blobs.WithNamespace(ctx), &snapshotsapi.UsageRequest{Snapshotter: u.Snapshotter, Key: key})
		if err != nil {
			return nil, fmt.Errorf("cannot measure snapshot %s: %w", key, grpcstatus.Error(err))
		}
		sizes[i] = usage.GetSize()
	}
	return sizes, nil
}

func (u *Unpacker) apply(ctx context.Context, root *os.File, layer Layer) error {
	// The size that the store has counts, not the manifest's: that may name a blob twice, and lie once.
	info, err := u.Content.Info(ctx, layer.Descriptor.Digest)
	if err != nil {
		return err
	}
	compressed, err := u.Content.Open(ctx, layer.Descriptor.Digest, 0)
	if err != nil {
		return err
	}
	defer func() { _ = compressed.Close() }()
	archive, err := decompress(&counter{Reader: compressed, report: layer.Progress})
	if err != nil {
		return err
	}
	ahead := newReadAhead(archive)
	defer ahead.Close()
	hash := layer.DiffID.Algorithm().Hash()
	hashed := io.TeeReader(ahead, hash)
	if err := Apply(ctx, root, hashed, u.Limits, info.GetSize()); err != nil {
		return err
	}
	// What follows the end of the archive is part of its digest, too.
	rest := u.Limits.budgets(info.GetSize()).archive
	return verify(budgetReader{contextReader{hashed, ctx}, &rest}, hash, layer.DiffID)
}

// verify reads what is left and compares the digest.
func verify(rest io.Reader, hash hash.Hash, diffID digest.Digest) error {
	if _, err := io.Copy(io.Discard, rest); err != nil {
		return readError(err)
	}
	if got := digest.NewDigest(diffID.Algorithm(), hash); got != diffID {
		return errdefs.As(errdefs.ErrDataLoss, fmt.Errorf("the archive has the digest %s, but the image's configuration promises %s", got, diffID))
	}
	return nil
}

// counter reports how much has been read.
type counter struct {
	io.Reader
	n      int64
	report func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	if c.report != nil && n > 0 {
		c.report(c.n)
	}
	return n, err
}
