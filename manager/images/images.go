// Package images keeps the images of this host: it pulls them from registries, pushes, names, lists and removes them.
//
// An image is known by the digest of its configuration (its ID) and may have any number of names. Its content lives in
// the content store, its unpacked layers in the snapshotter; this package records in bbolt which of both belong together.
package images

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/berthd/berth/manager/blobs"
	"github.com/berthd/berth/manager/gc"
	"github.com/berthd/berth/manager/namelock"
	"github.com/berthd/berth/manager/registry"
	"github.com/berthd/berth/manager/unpack"
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
	// Limits bound what a layer may unpack to.
	Limits unpack.Limits
	// Daemon is the ID of the daemon: stores can be shared.
	Daemon string
	Logger *slog.Logger
	// InUse tells which containers use an image, and whether one of them runs.
	InUse func(ctx context.Context, imageID string) (containers []string, running bool)
}

// Service is the images of one host.
type Service struct {
	cfg       Config
	index     *index
	content   *blobs.Store
	unpacker  *unpack.Unpacker
	collector *gc.Collector
	registry  *registry.Client
	// busy are the digests and chain IDs that some pull works on, so that another waits instead of doing it again.
	busy namelock.Locks
}

// Image is what containers are made from.
type Image struct {
	// ID is the digest of the configuration.
	ID string
	// Name is the full name that was asked for, or the ID.
	Name string
	// Config is the configuration, for the platform that was pulled.
	Config ocispec.Image
	// HasHealthCheck says that the image names a command that checks the health of its containers.
	HasHealthCheck bool
	// ChainID is the key of the committed snapshot that holds all layers. Empty for an image without layers.
	ChainID string
	// Target is the manifest or index that Name stands for.
	Target    ocispec.Descriptor
	CreatedAt time.Time
}

// New opens the images recorded in cfg.DB.
func New(cfg Config) (*Service, error) {
	index, err := openIndex(cfg.DB, cfg.Logger)
	if err != nil {
		return nil, err
	}
	content := blobs.New(cfg.Content, cfg.Leases, cfg.Daemon)
	s := &Service{
		cfg: cfg, index: index, content: content, registry: registry.NewClient(),
		unpacker: &unpack.Unpacker{Content: content, Snapshots: cfg.Snapshots, Snapshotter: cfg.Snapshotter, Daemon: cfg.Daemon, Limits: cfg.Limits},
	}
	s.collector = gc.New(gc.Config{
		Content: content, Snapshots: cfg.Snapshots, Snapshotter: cfg.Snapshotter, Daemon: cfg.Daemon, Logger: cfg.Logger,
		Live: func() (gc.Live, error) { return index.live(), nil },
	})
	return s, nil
}

// Start prepares the stores and removes what an earlier daemon was in the middle of. Call it once, before any other
// call that changes something.
func (s *Service) Start(ctx context.Context) error {
	fresh, err := s.content.Start(ctx)
	if err != nil {
		return fmt.Errorf("cannot prepare the content store: %w", err)
	}
	if fresh {
		s.claim(ctx)
	}
	if _, err := s.Collect(ctx); err != nil {
		s.cfg.Logger.Error("the collection at the start is put off", "error", err)
	}
	return nil
}

// claim marks what the recorded images need as this daemon's, in a store that does not know so yet.
func (s *Service) claim(ctx context.Context) {
	for _, r := range s.index.all() {
		var errs []error
		for _, n := range r.Names {
			errs = append(errs, s.content.Hold(ctx, n.Target.Digest))
		}
		errs = append(errs, s.content.Hold(ctx, r.Manifest.Digest))
		for _, chain := range unpack.ChainIDs(r.config.RootFS.DiffIDs) {
			_, err := s.unpacker.Claim(ctx, chain)
			errs = append(errs, err)
		}
		if err := errors.Join(errs...); err != nil {
			s.cfg.Logger.Error("an image may lose content or layers", "image", r.ID, "error", err)
		}
	}
}

// Login asks a registry, host or host:port, whether it accepts credentials, and returns a token to keep in place of the
// password if the registry gives one. Nothing is remembered: each pull and push brings its own credentials.
func (s *Service) Login(ctx context.Context, host string, credentials registry.Credentials) (identityToken string, err error) {
	if host == "" {
		return "", invalid("the name of the registry is empty")
	}
	token, err := s.registry.Login(ctx, host, registry.Options{Credentials: credentials, Insecure: s.cfg.InsecureRegistries})
	if err != nil {
		return "", fmt.Errorf("cannot log in to %s: %w", host, err)
	}
	return token, nil
}

// Collect removes content and snapshots that no image needs any more, and returns how many bytes that were. What a
// pull or a container uses stays.
func (s *Service) Collect(ctx context.Context) (freed int64, err error) {
	freed, err = s.collector.Collect(ctx)
	if err != nil {
		return freed, fmt.Errorf("cannot collect what no image needs: %w", err)
	}
	return freed, nil
}

// collectLimit bounds a collection that nobody has asked for. Pulls wait for it.
const collectLimit = time.Minute

// collectLater is Collect after something that is done whether it succeeds or not: what can't be removed now is left to
// the next collection.
func (s *Service) collectLater(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), collectLimit)
	defer cancel()
	if _, err := s.Collect(ctx); err != nil {
		s.cfg.Logger.Warn("what no image needs stays until the next collection", "error", err)
	}
}

// Resolve finds a local image by name, digest, ID or prefix of an ID. ErrNotFound: there is none.
func (s *Service) Resolve(_ context.Context, ref string) (Image, error) {
	found, err := s.index.find(ref)
	if err != nil {
		return Image{}, err
	}
	return found.image(), nil
}

// image makes what callers see of a record that was found under a name.
func (f found) image() Image {
	r := f.record
	image := Image{ID: r.ID, Name: r.ID, Config: r.config, HasHealthCheck: r.healthCheck, Target: r.Manifest}
	if f.name != "" {
		image.Name, image.Target = f.name, r.Names[f.name].Target
	}
	if len(r.config.RootFS.DiffIDs) > 0 {
		image.ChainID = unpack.ChainID(r.config.RootFS.DiffIDs)
	}
	if r.config.Created != nil {
		image.CreatedAt = *r.config.Created
	}
	return image
}

// Usage of all images on disk: their number, how many a container uses, bytes, and bytes of those not in use.
type Usage struct {
	Total, Active     int
	Size, Reclaimable int64
}

// Usage computes what images take: each layer once, however many images share it.
func (s *Service) Usage(ctx context.Context) (Usage, error) {
	var usage Usage
	layers, needed := map[string]int64{}, map[string]bool{}
	for _, r := range s.index.all() {
		usage.Total++
		containers, _ := s.inUse(ctx, r.ID)
		if len(containers) > 0 {
			usage.Active++
		}
		for i, chain := range unpack.ChainIDs(r.config.RootFS.DiffIDs) {
			if i < len(r.LayerSizes) {
				layers[chain] = r.LayerSizes[i]
			}
			needed[chain] = needed[chain] || len(containers) > 0
		}
	}
	for chain, size := range layers {
		usage.Size += size
		if !needed[chain] {
			usage.Reclaimable += size
		}
	}
	return usage, nil
}

func (s *Service) inUse(ctx context.Context, id string) (containers []string, running bool) {
	if s.cfg.InUse == nil {
		return nil, false
	}
	return s.cfg.InUse(ctx, id)
}

// short is how people know an image that has no name.
func short(id string) string {
	hex := strings.TrimPrefix(id, "sha256:")
	return hex[:min(12, len(hex))]
}
