package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/panics"
	"github.com/berthd/berth/manager/registry"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// parallelUploads is how many blobs of one image are sent at once.
const parallelUploads = 4

// PushRequest says what to send.
type PushRequest struct {
	Reference   string
	Credentials registry.Credentials
	// Report is told what happens to each layer. It is not called after Push has returned.
	Report func(*berthv1.Progress)
}

// PushResult is what has been sent.
type PushResult struct {
	// Reference is the full name.
	Reference string
	Manifest  ocispec.Descriptor
}

// Push sends an image to the registry of its name. Of one that was pulled from an index, that is the manifest of the
// platform that is here: the others' layers are not.
func (s *Service) Push(ctx context.Context, request PushRequest) (PushResult, error) {
	named, err := parseName(request.Reference)
	if err != nil {
		return PushResult{}, err
	}
	tagged, ok := named.(reference.NamedTagged)
	if !ok {
		return PushResult{}, invalid("cannot push %q: a registry takes images by tag, not by digest", request.Reference)
	}
	f, err := s.index.find(named.String())
	if err != nil {
		return PushResult{}, err
	}
	p := &pull{Service: s, name: named, progress: newProgress(request.Report)}
	defer p.progress.stop()
	manifest, err := p.push(ctx, f, tagged.Tag(), request.Credentials)
	if err != nil {
		return PushResult{}, fmt.Errorf("cannot push %q: %w", reference.FamiliarString(named), err)
	}
	s.cfg.Logger.Info("image pushed", "image", named.String(), "digest", manifest.Digest.String())
	return PushResult{Reference: named.String(), Manifest: manifest}, nil
}

func (p *pull) push(ctx context.Context, f found, tag string, credentials registry.Credentials) (_ ocispec.Descriptor, err error) {
	manifest, content := f.record.Manifest, f.record.Content
	if target := f.record.Names[f.name]; !isIndex(target.Target.MediaType) {
		manifest, content = target.Target, target.Content
	}
	release := p.collector.Keep(content...)
	defer release()
	if p.lease, err = p.content.Lease(ctx); err != nil {
		return manifest, err
	}
	defer p.end(ctx, p.lease)
	if err := p.lease.Add(ctx, manifest.Digest); err != nil { // and all that its labels lead to
		return manifest, err
	}
	if p.repo, err = p.registry.Open(p.name, registry.Options{Credentials: credentials, Insecure: p.cfg.InsecureRegistries}); err != nil {
		return manifest, err
	}
	raw, err := p.content.ReadAll(ctx, manifest, maxConfig)
	if err != nil {
		return manifest, err
	}
	parsed, err := parseManifest(registry.Manifest{Descriptor: manifest, Content: raw})
	if err != nil {
		return manifest, err
	}
	if err := p.pushBlobs(ctx, parsed); err != nil {
		return manifest, err
	}
	return manifest, p.retry(ctx, nil, func() error { return p.repo.PushManifest(ctx, manifest, raw, tag) })
}

// pushBlobs sends what a manifest names, so that the registry accepts the manifest.
func (p *pull) pushBlobs(ctx context.Context, manifest ocispec.Manifest) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelUploads)
	sent := map[string]bool{}
	for _, desc := range append(manifest.Layers, manifest.Config) {
		// As docker does: a layer that its licence keeps from being pushed is fetched from elsewhere.
		foreign := isForeign(desc.MediaType) && len(desc.URLs) > 0
		if sent[desc.Digest.String()] || foreign {
			continue
		}
		sent[desc.Digest.String()] = true
		group.Go(func() (err error) {
			defer panics.Recover(slog.Default(), "the push of a blob", &err)
			return p.pushBlob(ctx, desc)
		})
	}
	return group.Wait()
}

func (p *pull) pushBlob(ctx context.Context, desc ocispec.Descriptor) error {
	observe := &observer{progress: p.progress, layer: desc}
	return p.retry(ctx, observe, func() error {
		exists, err := p.repo.HasBlob(ctx, desc)
		if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return err
		}
		if exists {
			p.progress.phase(desc, berthv1.Phase_PHASE_EXISTS, "")
			return nil
		}
		content, err := p.content.Open(ctx, desc.Digest, 0)
		if err != nil {
			return err
		}
		defer func() { _ = content.Close() }()
		p.progress.phase(desc, berthv1.Phase_PHASE_UPLOADING, "")
		if err := p.repo.PushBlob(ctx, desc, &uploadReader{Reader: content, observer: observe}); err != nil {
			return err
		}
		p.progress.phase(desc, berthv1.Phase_PHASE_DONE, "")
		return nil
	})
}

// uploadReader tells how much of a blob has been sent.
type uploadReader struct {
	io.Reader
	observer *observer
	n        int64
}

func (r *uploadReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	r.observer.progress.bytes(r.observer.layer, berthv1.Phase_PHASE_UPLOADING, r.n)
	return n, err
}
