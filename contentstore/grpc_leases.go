package contentstore

import (
	"context"
	"log/slog"
	"time"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/berthd/berth/internal/dbroom"
	"github.com/berthd/berth/internal/filters"
)

type leasesService struct {
	leasesapi.UnimplementedLeasesServer
	store *Store
}

func (l *leasesService) Create(ctx context.Context, r *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	sc, err := scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	lease, err := l.store.createLease(sc, r.ID, r.Labels)
	if err != nil {
		return nil, err
	}
	return &leasesapi.CreateResponse{Lease: lease}, nil
}

// Delete ends a lease. With sync it then collects garbage in the lease's namespace, and returns when that is done; this
// is the only time that garbage is collected.
func (l *leasesService) Delete(ctx context.Context, r *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	sc, err := scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.store.deleteLease(sc, r.ID); err != nil {
		return nil, err
	}
	if !r.Sync {
		return &emptypb.Empty{}, nil
	}
	count, err := l.store.collect(sc.namespace, time.Now())
	level := slog.LevelDebug
	if count != (collected{}) {
		level = slog.LevelInfo
	}
	l.store.log.Log(ctx, level, "garbage collected", "namespace", sc.namespace,
		"blobs", count.blobs, "bytes", count.bytes, "ingests", count.ingests, "leases", count.leases)
	return &emptypb.Empty{}, err
}

func (l *leasesService) List(ctx context.Context, r *leasesapi.ListRequest) (*leasesapi.ListResponse, error) {
	sc, err := scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	matches, err := filters.Parse(r.Filters)
	if err != nil {
		return nil, err
	}
	leases, err := l.store.listLeases(sc, func(lease *leasesapi.Lease) bool { return matches(leaseFields{lease}) })
	if err != nil {
		return nil, err
	}
	return &leasesapi.ListResponse{Leases: leases}, nil
}

// leaseFields are those of a lease that a filter can name.
type leaseFields struct{ lease *leasesapi.Lease }

func (f leaseFields) Field(path []string) (string, bool) {
	switch path[0] {
	case "id":
		return f.lease.ID, true
	case "labels":
		return filters.Label(f.lease.Labels, path[1:])
	}
	return "", false
}

func (l *leasesService) AddResource(ctx context.Context, r *leasesapi.AddResourceRequest) (*emptypb.Empty, error) {
	return l.changeResource(ctx, r.ID, r.Resource, addResource)
}

func (l *leasesService) DeleteResource(ctx context.Context, r *leasesapi.DeleteResourceRequest) (*emptypb.Empty, error) {
	return l.changeResource(ctx, r.ID, r.Resource, removeResource)
}

func (l *leasesService) changeResource(ctx context.Context, lease string, r *leasesapi.Resource,
	change func(tx *bbolt.Tx, namespace, lease, kind, id string) error,
) (*emptypb.Empty, error) {
	sc, err := scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkResource(r); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, dbroom.Update(l.store.db, func(tx *bbolt.Tx) error {
		return change(tx, sc.namespace, lease, r.Type, r.ID)
	})
}

func (l *leasesService) ListResources(ctx context.Context, r *leasesapi.ListResourcesRequest) (*leasesapi.ListResourcesResponse, error) {
	sc, err := scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	resources, err := l.store.resources(sc, r.ID)
	if err != nil {
		return nil, err
	}
	return &leasesapi.ListResourcesResponse{Resources: resources}, nil
}
