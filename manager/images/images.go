// Package images keeps the images of this host: it pulls them from registries, pushes, names, lists and removes them.
//
// An image is known by the digest of its configuration (its ID) and may have any number of names. Its content lives in
// the content store, its unpacked layers in the snapshotter; this package records in bbolt which of both belong together.
package images

import (
	"context"
	"log/slog"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/berthd/berth/internal/errdefs"
)

// Config is what a Service works with.
type Config struct {
	DB        *bbolt.DB
	Content   contentapi.ContentClient
	Leases    leasesapi.LeasesClient
	Snapshots snapshotsapi.SnapshotsClient
	// Snapshotter is the name that goes into each snapshots request: "overlay" or "native".
	Snapshotter string
	// InsecureRegistries are spoken to over plain HTTP, as those on a loopback address are.
	InsecureRegistries []string
	Logger             *slog.Logger
	// InUse tells which containers use an image, and whether one of them runs.
	InUse func(ctx context.Context, imageID string) (containers []string, running bool)
}

// Service is the images of one host.
type Service struct {
	cfg Config
}

// Image is what containers are made from.
type Image struct {
	// ID is the digest of the configuration.
	ID string
	// Name is the full name that was asked for, or the ID.
	Name string
	// Config is the configuration, for the platform that was pulled.
	Config ocispec.Image
	// ChainID is the key of the committed snapshot that holds all layers. Empty for an image without layers.
	ChainID string
	// Target is the manifest or index that Name stands for.
	Target    ocispec.Descriptor
	CreatedAt time.Time
}

// New opens the images recorded in cfg.DB.
func New(cfg Config) (*Service, error) {
	return &Service{cfg: cfg}, nil
}

// Resolve finds a local image by name, digest, ID or prefix of an ID. ErrNotFound: there is none.
func (s *Service) Resolve(ctx context.Context, ref string) (Image, error) {
	return Image{}, errdefs.ErrUnimplemented
}

// Usage of all images on disk: their number, how many a container uses, bytes, and bytes of those not in use.
type Usage struct {
	Total, Active     int
	Size, Reclaimable int64
}

// Usage computes what images take.
func (s *Service) Usage(ctx context.Context) (Usage, error) {
	return Usage{}, errdefs.ErrUnimplemented
}
