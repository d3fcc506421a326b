// Package blobs is the manager's client of a content store: ours, in this process or another, or containerd's.
//
// What is written or named under a Lease is kept at least until the lease is deleted. After that the store keeps what
// can be reached, along labels, from content that is held (Hold). Leases, and the names of transfers, carry the daemon's
// ID: a daemon ends only its own, so several can share a store.
package blobs

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/grpcstatus"
)

// Labels that stores know.
const (
	RootLabel = "containerd.io/gc.root"
	RefLabel  = "containerd.io/gc.ref.content"
	// SnapshotRefLabel, with the name of a snapshotter behind it, names the snapshot that content needs.
	SnapshotRefLabel = "containerd.io/gc.ref.snapshot."
)

// daemonLabel on a lease is the ID of the daemon that made it.
const daemonLabel = "dev.berth/daemon"

// Namespace is where the manager keeps all its content, snapshots and tasks.
const Namespace = "berth"

// Store is a content store at the other end of a gRPC connection.
type Store struct {
	content contentapi.ContentClient
	leases  leasesapi.LeasesClient
	daemon  string
}

// New makes a client for the daemon with an ID.
func New(content contentapi.ContentClient, leases leasesapi.LeasesClient, daemon string) *Store {
	return &Store{content: content, leases: leases, daemon: daemon}
}

// transfers is the lease of all transfers into the store. It is never deleted, so that a transfer that was cut off can be
// continued by a later pull; a blob stays in it only until the lease of its pull has it.
func (s *Store) transfers() *Lease { return &Lease{store: s, id: "berth-transfers-" + s.daemon} }

// images is the lease that holds what images need. It is never deleted.
func (s *Store) images() *Lease { return &Lease{store: s, id: "berth-images-" + s.daemon} }

// Start prepares the store and ends the leases that this daemon was killed with. fresh says that the store holds nothing
// for it yet. Call it once, before any transfer.
func (s *Store) Start(ctx context.Context) (fresh bool, err error) {
	leases, err := s.leases.List(WithNamespace(ctx), &leasesapi.ListRequest{
		Filters: []string{fmt.Sprintf("labels.%q==%s", daemonLabel, s.daemon)},
	})
	if err != nil {
		return false, grpcstatus.Error(err)
	}
	for _, lease := range leases.GetLeases() {
		id := lease.GetID()
		if id == s.transfers().id || id == s.images().id || lease.GetLabels()[daemonLabel] != s.daemon {
			continue
		}
		if _, err := s.leases.Delete(WithNamespace(ctx), &leasesapi.DeleteRequest{ID: id}); err != nil && status.Code(err) != codes.NotFound {
			return false, grpcstatus.Error(err)
		}
	}
	if _, err := s.createLease(ctx, s.transfers().id); err != nil {
		return false, err
	}
	left, err := s.transfers().content(ctx)
	if err != nil {
		return false, err
	}
	for _, d := range left {
		if err := s.transfers().drop(ctx, d); err != nil {
			return false, err
		}
	}
	return s.createLease(ctx, s.images().id)
}

// createLease makes a lease of this daemon, unless it is there.
func (s *Store) createLease(ctx context.Context, id string) (made bool, err error) {
	_, err = s.leases.Create(WithNamespace(ctx), &leasesapi.CreateRequest{ID: id, Labels: map[string]string{daemonLabel: s.daemon}})
	if status.Code(err) == codes.AlreadyExists {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot create a lease: %w", grpcstatus.Error(err))
	}
	return true, nil
}

// Hold keeps content, with all that it refers to, until Release.
func (s *Store) Hold(ctx context.Context, d digest.Digest) error { return s.images().Add(ctx, d) }

// Release ends a Hold.
func (s *Store) Release(ctx context.Context, d digest.Digest) error { return s.images().drop(ctx, d) }

// Held lists what is held.
func (s *Store) Held(ctx context.Context) ([]digest.Digest, error) { return s.images().content(ctx) }

// WithNamespace addresses a request to the manager's namespace, unless the request already names one.
func WithNamespace(ctx context.Context) context.Context {
	if md, ok := metadata.FromOutgoingContext(ctx); ok && len(md.Get("containerd-namespace")) > 0 {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", Namespace)
}

// Lease keeps content from being collected while something is made of it.
type Lease struct {
	store *Store
	id    string
	// full says that the store's disk was too small for a transfer under this lease.
	full atomic.Bool
}

// Lease makes a new lease. The caller deletes it. It does not expire, because a pull may take longer than any time that
// could be chosen; Start ends those of a daemon that was killed.
func (s *Store) Lease(ctx context.Context) (*Lease, error) {
	lease := &Lease{store: s, id: strings.ToLower("berth-" + rand.Text())}
	_, err := s.createLease(ctx, lease.id)
	return lease, err
}

// Context makes requests with ctx act under the lease.
func (l *Lease) Context(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(WithNamespace(ctx), "containerd-lease", l.id)
}

// Add keeps a blob that is there already.
func (l *Lease) Add(ctx context.Context, d digest.Digest) error {
	_, err := l.store.leases.AddResource(WithNamespace(ctx), &leasesapi.AddResourceRequest{
		ID: l.id, Resource: &leasesapi.Resource{ID: d.String(), Type: "content"},
	})
	if err != nil {
		return fmt.Errorf("cannot add %s to a lease: %w", d, grpcstatus.Error(err))
	}
	return nil
}

// content lists the blobs in the lease.
func (l *Lease) content(ctx context.Context) (digests []digest.Digest, err error) {
	list, err := l.store.leases.ListResources(WithNamespace(ctx), &leasesapi.ListResourcesRequest{ID: l.id})
	if err != nil {
		return nil, fmt.Errorf("cannot list what a lease has: %w", grpcstatus.Error(err))
	}
	for _, resource := range list.GetResources() {
		if resource.GetType() == "content" {
			digests = append(digests, digest.Digest(resource.GetID()))
		}
	}
	return digests, nil
}

func (l *Lease) drop(ctx context.Context, d digest.Digest) error {
	_, err := l.store.leases.DeleteResource(WithNamespace(ctx), &leasesapi.DeleteResourceRequest{
		ID: l.id, Resource: &leasesapi.Resource{ID: d.String(), Type: "content"},
	})
	if err != nil && status.Code(err) != codes.NotFound {
		return fmt.Errorf("cannot drop %s from a lease: %w", d, grpcstatus.Error(err))
	}
	return nil
}

// Delete ends the lease, also if ctx is done. Deleting it again does nothing.
func (l *Lease) Delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_, err := l.store.leases.Delete(WithNamespace(ctx), &leasesapi.DeleteRequest{ID: l.id, Sync: true})
	if err != nil && status.Code(err) != codes.NotFound {
		return fmt.Errorf("cannot delete a lease: %w", grpcstatus.Error(err))
	}
	return nil
}

// Collect makes the store remove what neither a lease nor a label keeps. The store does so in one step, so that nothing
// is lost which a lease gets meanwhile.
func (s *Store) Collect(ctx context.Context) error {
	lease, err := s.Lease(ctx)
	if err != nil {
		return err
	}
	return lease.Delete(ctx)
}

// Info describes a blob. ErrNotFound: it is not there.
func (s *Store) Info(ctx context.Context, d digest.Digest) (*contentapi.Info, error) {
	response, err := s.content.Info(WithNamespace(ctx), &contentapi.InfoRequest{Digest: d.String()})
	if err != nil {
		return nil, fmt.Errorf("cannot find content %s: %w", d, grpcstatus.Error(err))
	}
	return response.GetInfo(), nil
}

// SetLabel sets a label of a blob, or removes it if value is empty.
func (s *Store) SetLabel(ctx context.Context, d digest.Digest, key, value string) error {
	_, err := s.content.Update(WithNamespace(ctx), &contentapi.UpdateRequest{
		Info:       &contentapi.Info{Digest: d.String(), Labels: map[string]string{key: value}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels." + key}},
	})
	if err != nil {
		return fmt.Errorf("cannot label content %s: %w", d, grpcstatus.Error(err))
	}
	return nil
}

// List calls visit for each blob.
func (s *Store) List(ctx context.Context, visit func(*contentapi.Info)) error {
	stream, err := s.content.List(WithNamespace(ctx), &contentapi.ListContentRequest{})
	if err != nil {
		return fmt.Errorf("cannot list content: %w", grpcstatus.Error(err))
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot list content: %w", grpcstatus.Error(err))
		}
		for _, info := range response.GetInfo() {
			visit(info)
		}
	}
}

// AbortBefore drops transfers of this daemon that it has not continued since a time.
func (s *Store) AbortBefore(ctx context.Context, before time.Time) error {
	response, err := s.content.ListStatuses(WithNamespace(ctx), &contentapi.ListStatusesRequest{})
	if err != nil {
		return fmt.Errorf("cannot list transfers: %w", grpcstatus.Error(err))
	}
	var errs []error
	for _, transfer := range response.GetStatuses() {
		if strings.HasPrefix(transfer.GetRef(), s.refPrefix()) && transfer.GetUpdatedAt().AsTime().Before(before) {
			errs = append(errs, s.abort(ctx, transfer.GetRef()))
		}
	}
	return errors.Join(errs...)
}

// refPrefix begins the names of this daemon's transfers: a name is locked while another daemon writes to it.
func (s *Store) refPrefix() string { return "berth-" + s.daemon + "-" }

func (s *Store) abort(ctx context.Context, ref string) error {
	_, err := s.content.Abort(WithNamespace(ctx), &contentapi.AbortRequest{Ref: ref})
	if err != nil && status.Code(err) != codes.NotFound {
		return fmt.Errorf("cannot abort transfer %q: %w", ref, grpcstatus.Error(err))
	}
	return nil
}

// Open streams a blob from an offset.
func (s *Store) Open(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(WithNamespace(ctx))
	stream, err := s.content.Read(ctx, &contentapi.ReadContentRequest{Digest: d.String(), Offset: offset})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("cannot read content %s: %w", d, grpcstatus.Error(err))
	}
	return &reader{digest: d, stream: stream, cancel: cancel}, nil
}

type reader struct {
	digest digest.Digest
	stream contentapi.Content_ReadClient
	cancel context.CancelFunc
	rest   []byte
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		response, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, fmt.Errorf("cannot read content %s: %w", r.digest, grpcstatus.Error(err))
		}
		r.rest = response.GetData()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *reader) Close() error {
	r.cancel()
	return nil
}

// ReadAll reads a small blob, as a manifest, and checks it against its descriptor.
func (s *Store) ReadAll(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("content %s has %d bytes, more than the %d allowed", desc.Digest, desc.Size, limit))
	}
	r, err := s.Open(ctx, desc.Digest, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	var buffer bytes.Buffer
	if _, err := io.Copy(&buffer, io.LimitReader(r, limit+1)); err != nil {
		return nil, err
	}
	if digest.FromBytes(buffer.Bytes()) != desc.Digest {
		return nil, errdefs.As(errdefs.ErrDataLoss, fmt.Errorf("content %s of the store does not match its digest", desc.Digest))
	}
	return buffer.Bytes(), nil
}
