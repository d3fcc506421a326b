package contentstore

import (
	"context"
	"io"
	"strconv"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/berthd/berth/internal/filters"
	"github.com/berthd/berth/internal/grpcserve"
)

// Register serves s with r as containerd.services.content.v1.Content and containerd.services.leases.v1.Leases.
func Register(r grpc.ServiceRegistrar, s *Store) {
	r = grpcserve.Registrar(r)
	contentapi.RegisterContentServer(r, &contentService{store: s})
	leasesapi.RegisterLeasesServer(r, &leasesService{store: s})
}

type contentService struct {
	contentapi.UnimplementedContentServer
	store *Store
}

func (c *contentService) Info(ctx context.Context, r *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	sc, err := scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	d, err := parseDigest(r.Digest)
	if err != nil {
		return nil, err
	}
	info, err := c.store.info(sc, d)
	if err != nil {
		return nil, err
	}
	return &contentapi.InfoResponse{Info: info}, nil
}

func (c *contentService) Update(ctx context.Context, r *contentapi.UpdateRequest) (*contentapi.UpdateResponse, error) {
	sc, err := scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	info, err := c.store.update(sc, r.Info, r.UpdateMask.GetPaths())
	if err != nil {
		return nil, err
	}
	return &contentapi.UpdateResponse{Info: info}, nil
}

func (c *contentService) List(r *contentapi.ListContentRequest, stream contentapi.Content_ListServer) error {
	sc, err := scopeOf(stream.Context())
	if err != nil {
		return err
	}
	matches, err := filters.Parse(r.Filters)
	if err != nil {
		return err
	}
	infos, err := c.store.list(sc, func(info *contentapi.Info) bool { return matches(blobFields{info}) })
	if err != nil {
		return err
	}
	for batch := range grpcserve.Batches(infos) {
		if err := stream.Send(&contentapi.ListContentResponse{Info: batch}); err != nil {
			return err
		}
	}
	return nil
}

// blobFields are those of a blob that a filter can name.
type blobFields struct{ info *contentapi.Info }

func (f blobFields) Field(path []string) (string, bool) {
	switch path[0] {
	case "digest":
		return f.info.Digest, true
	case "size":
		return strconv.FormatInt(f.info.Size, 10), true
	case "labels":
		return filters.Label(f.info.Labels, path[1:])
	}
	return "", false
}

func (c *contentService) Delete(ctx context.Context, r *contentapi.DeleteContentRequest) (*emptypb.Empty, error) {
	sc, err := scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	d, err := parseDigest(r.Digest)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, c.store.delete(sc, d)
}

// readChunk is large, because each message costs a few microseconds, and well below gRPC's limit of 4 MiB.
const readChunk = 1 << 20

func (c *contentService) Read(r *contentapi.ReadContentRequest, stream contentapi.Content_ReadServer) error {
	sc, err := scopeOf(stream.Context())
	if err != nil {
		return err
	}
	d, err := parseDigest(r.Digest)
	if err != nil {
		return err
	}
	file, total, err := c.store.open(sc, d)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	offset, size := max(r.Offset, 0), r.Size
	if offset > total {
		return status.Errorf(codes.OutOfRange, "cannot read content %s from byte %d: it has %d", d, offset, total)
	}
	if size <= 0 || size > total-offset {
		size = total - offset
	}
	section := io.NewSectionReader(file, offset, size)
	buffer := make([]byte, min(size, readChunk))
	for size > 0 {
		n, err := io.ReadFull(section, buffer[:min(size, readChunk)])
		if err != nil {
			return err
		}
		if err := stream.Send(&contentapi.ReadContentResponse{Offset: offset, Data: buffer[:n]}); err != nil {
			return err
		}
		offset, size = offset+int64(n), size-int64(n)
	}
	return nil
}

func (c *contentService) Status(ctx context.Context, r *contentapi.StatusRequest) (*contentapi.StatusResponse, error) {
	sc, err := scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	status, err := c.store.status(sc, r.Ref)
	if err != nil {
		return nil, err
	}
	return &contentapi.StatusResponse{Status: status}, nil
}

func (c *contentService) ListStatuses(ctx context.Context, r *contentapi.ListStatusesRequest) (*contentapi.ListStatusesResponse, error) {
	sc, err := scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	matches, err := filters.Parse(r.Filters)
	if err != nil {
		return nil, err
	}
	statuses, err := c.store.statuses(sc, func(status *contentapi.Status) bool { return matches(ingestFields{status}) })
	if err != nil {
		return nil, err
	}
	return &contentapi.ListStatusesResponse{Statuses: statuses}, nil
}

// ingestFields are those of an ingest that a filter can name.
type ingestFields struct{ status *contentapi.Status }

func (f ingestFields) Field(path []string) (string, bool) {
	return f.status.Ref, path[0] == "ref"
}

func (c *contentService) Abort(ctx context.Context, r *contentapi.AbortRequest) (*emptypb.Empty, error) {
	sc, err := scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, c.store.abort(sc, r.Ref)
}
