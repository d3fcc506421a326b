package images

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berthd/berth/internal/panics"
	"github.com/berthd/berth/manager/blobs"
	"github.com/berthd/berth/manager/registry"
	"github.com/berthd/berth/manager/unpack"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// parallelDownloads is how many layers of one image are fetched at once.
const parallelDownloads = 4

// PullRequest says what to fetch.
type PullRequest struct {
	Reference string
	// Platform to take from an index. Nil: the host's.
	Platform    *ocispec.Platform
	Credentials registry.Credentials
	// Report is told what happens to each layer. It is not called after Pull has returned.
	Report func(*berthv1.Progress)
}

// PullResult is what has been fetched.
type PullResult struct {
	ID string
	// Reference is the full name.
	Reference string
	// Target is the manifest or index that the name stands for.
	Target ocispec.Descriptor
	// Updated is false if the name stood for the same image before.
	Updated bool
}

// pull is one Pull on its way.
type pull struct {
	*Service
	name     reference.Named
	repo     *registry.Repository
	lease    *blobs.Lease
	progress *progress
}

// Pull fetches an image and unpacks it. If it fails, nothing of the image stays but the beginnings of layers, which the
// next pull continues.
//
//	name ─► manifest or index ─► manifest of the platform ─► configuration ─┬─► layer 1 ─► unpack ─┐
//	                                                                        ├─► layer 2 ──────────┴─► unpack ─┐
//	                                                                        └─► …                             └─► record
func (s *Service) Pull(ctx context.Context, request PullRequest) (_ PullResult, err error) {
	name, err := parseName(request.Reference)
	if err != nil {
		return PullResult{}, err
	}
	result, err := s.pull(ctx, name, request)
	if err != nil {
		s.collectLater(ctx)
		return PullResult{}, fmt.Errorf("cannot pull %q: %w", reference.FamiliarString(name), err)
	}
	s.cfg.Logger.Info("image pulled", "image", name.String(), "id", result.ID, "digest", result.Target.Digest.String(), "updated", result.Updated)
	return result, nil
}

func (s *Service) pull(ctx context.Context, name reference.Named, request PullRequest) (_ PullResult, err error) {
	repo, err := s.registry.Open(name, registry.Options{Credentials: request.Credentials, Insecure: s.cfg.InsecureRegistries})
	if err != nil {
		return PullResult{}, err
	}
	lease, err := s.content.Lease(ctx)
	if err != nil {
		return PullResult{}, err
	}
	defer s.end(ctx, lease)
	p := &pull{Service: s, name: name, repo: repo, lease: lease, progress: newProgress(request.Report)}
	defer p.progress.stop()
	source, err := p.resolve(ctx, request.Platform)
	if err != nil {
		return PullResult{}, err
	}
	release := s.collector.Keep(source.needs()...)
	defer release()
	if err := p.layers(ctx, source); err != nil {
		return PullResult{}, err
	}
	return p.record(ctx, source)
}

// end deletes a lease. What fails is repeated when berthd starts the next time, and is no failure of a transfer that is
// done.
func (s *Service) end(ctx context.Context, lease *blobs.Lease) {
	if err := lease.Delete(ctx); err != nil {
		s.cfg.Logger.Warn("cannot end the lease of a transfer: what it holds stays until berthd starts again", "error", err)
	}
}

// layers fetches all layers at once and unpacks them one upon the other, each as soon as it is there.
func (p *pull) layers(ctx context.Context, source *source) error {
	group, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, parallelDownloads)
	fetched := make([]chan struct{}, len(source.manifest.Layers))
	for i, layer := range source.manifest.Layers {
		fetched[i] = make(chan struct{})
		p.progress.phase(layer, berthv1.Phase_PHASE_WAITING, "")
		group.Go(func() (err error) {
			defer panics.Recover(slog.Default(), "the download of a layer", &err)
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			defer func() { <-slots }()
			if err := p.fetchLayer(ctx, layer); err != nil {
				return err
			}
			close(fetched[i])
			return nil
		})
	}
	group.Go(func() (err error) {
		defer panics.Recover(slog.Default(), "the unpacking of layers", &err)
		parent := ""
		for i, layer := range source.manifest.Layers {
			select {
			case <-fetched[i]:
			case <-ctx.Done():
				return ctx.Err()
			}
			chain, err := p.unpack(ctx, unpack.Layer{Parent: parent, Descriptor: layer, DiffID: source.config.RootFS.DiffIDs[i]})
			if err != nil {
				return err
			}
			parent = chain
		}
		return nil
	})
	return group.Wait()
}

// fetchLayer brings a layer into the store, unless it is there.
func (p *pull) fetchLayer(ctx context.Context, layer ocispec.Descriptor) error {
	observe := &observer{progress: p.progress, layer: layer}
	err := p.fetch(ctx, layer, observe)
	if err == nil && observe.current > 0 {
		p.progress.phase(layer, berthv1.Phase_PHASE_DOWNLOADED, "")
	}
	return err
}

// unpack makes the snapshot of a layer, unless it is there.
func (p *pull) unpack(ctx context.Context, layer unpack.Layer) (chain string, err error) {
	chain = layer.ChainID()
	unlock, err := p.busy.Lock(ctx, chain)
	if err != nil {
		return "", err
	}
	defer unlock()
	exists, err := p.unpacker.Claim(ctx, chain)
	if err != nil {
		return "", err
	}
	if exists {
		p.progress.phase(layer.Descriptor, berthv1.Phase_PHASE_EXISTS, "")
		return chain, nil
	}
	p.progress.phase(layer.Descriptor, berthv1.Phase_PHASE_EXTRACTING, "")
	layer.Progress = func(current int64) {
		p.progress.bytes(layer.Descriptor, berthv1.Phase_PHASE_EXTRACTING, current)
	}
	chain, err = p.unpacker.Unpack(ctx, layer)
	if err == nil {
		p.progress.phase(layer.Descriptor, berthv1.Phase_PHASE_DONE, "")
	}
	return chain, err
}

// record makes the image known under its name and under its digest.
func (p *pull) record(ctx context.Context, source *source) (PullResult, error) {
	if diffIDs := source.config.RootFS.DiffIDs; len(diffIDs) > 0 {
		label := blobs.SnapshotRefLabel + p.cfg.Snapshotter
		if err := p.content.SetLabel(ctx, source.manifest.Config.Digest, label, unpack.ChainID(diffIDs)); err != nil {
			return PullResult{}, err
		}
	}
	if err := p.content.Hold(ctx, source.target.Digest); err != nil {
		return PullResult{}, err
	}
	sizes, err := p.unpacker.Sizes(ctx, source.config.RootFS.DiffIDs)
	if err != nil {
		return PullResult{}, err
	}
	given := name{Target: source.target, Content: source.content(), TaggedAt: time.Now().UTC()}
	names := map[string]name{p.name.String(): given}
	if digested, err := reference.WithDigest(reference.TrimNamed(p.name), source.target.Digest); err == nil {
		names[digested.String()] = given
	}
	updated, err := p.index.put(&record{
		ID: source.manifest.Config.Digest.String(), Manifest: source.descriptor, Raw: source.rawConfig, config: source.config, healthCheck: hasHealthCheck(source.rawConfig),
		Content: given.Content, LayerSizes: sizes, Names: names,
	})
	if err != nil {
		return PullResult{}, err
	}
	return PullResult{
		ID: source.manifest.Config.Digest.String(), Reference: p.name.String(), Target: source.target, Updated: updated,
	}, nil
}
