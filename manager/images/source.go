package images

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/blobs"
	"github.com/berthd/berth/manager/registry"
	"github.com/berthd/berth/manager/unpack"
)

const (
	// maxConfig bounds a configuration: it is kept in memory.
	maxConfig = 4 << 20
	// maxNesting bounds indexes of indexes.
	maxNesting = 3
	// maxLayers is how many directories overlayfs can stack.
	maxLayers = 500
)

// source is an image as its registry describes it.
type source struct {
	// target is what the name stands for; indexes are it and those below it, if it is an index.
	target  ocispec.Descriptor
	indexes []digest.Digest
	// descriptor is that of manifest.
	descriptor ocispec.Descriptor
	manifest   ocispec.Manifest
	rawConfig  []byte
	config     ocispec.Image
}

// content are the digests that the image consists of.
func (s *source) content() []string {
	var names []string
	for _, d := range s.indexes {
		names = append(names, d.String())
	}
	names = append(names, s.descriptor.Digest.String(), s.manifest.Config.Digest.String())
	for _, layer := range s.manifest.Layers {
		names = append(names, layer.Digest.String())
	}
	return names
}

// needs are content and the keys of the snapshots that are made of it.
func (s *source) needs() []string {
	names := s.content()
	return append(names, unpack.ChainIDs(s.config.RootFS.DiffIDs)...)
}

// resolve fetches all of an image that is not a layer.
func (p *pull) resolve(ctx context.Context, wanted *ocispec.Platform) (*source, error) {
	tag := "latest"
	switch n := p.name.(type) {
	case reference.Digested:
		tag = n.Digest().String()
	case reference.Tagged:
		tag = n.Tag()
	}
	var found registry.Manifest
	err := p.retry(ctx, nil, func() (err error) {
		found, err = p.repo.Resolve(ctx, tag)
		return err
	})
	if err != nil {
		return nil, err
	}
	s := &source{target: found.Descriptor}
	for isIndex(found.Descriptor.MediaType) {
		if len(s.indexes) == maxNesting {
			return nil, invalid("the image's index has indexes in it, more than %d deep", maxNesting)
		}
		if found, err = p.choose(ctx, s, found, wanted); err != nil {
			return nil, err
		}
	}
	s.descriptor = found.Descriptor
	if s.manifest, err = parseManifest(found); err != nil {
		return nil, err
	}
	if err := p.keepManifest(ctx, found, manifestLabels(s.manifest)); err != nil {
		return nil, err
	}
	return s, p.fetchConfig(ctx, s, wanted)
}

// choose keeps an index and fetches the manifest in it that is for the wanted platform.
func (p *pull) choose(ctx context.Context, s *source, found registry.Manifest, wanted *ocispec.Platform) (registry.Manifest, error) {
	list, err := parseIndex(found)
	if err != nil {
		return registry.Manifest{}, err
	}
	chosen, err := choosePlatform(list.Manifests, wanted)
	if err != nil {
		return registry.Manifest{}, err
	}
	s.indexes = append(s.indexes, found.Descriptor.Digest)
	if err := p.keepManifest(ctx, found, map[string]string{childLabel(list, chosen): chosen.Digest.String()}); err != nil {
		return registry.Manifest{}, err
	}
	var next registry.Manifest
	err = p.retry(ctx, nil, func() (err error) {
		next, err = p.repo.Manifest(ctx, chosen)
		return err
	})
	return next, err
}

// keepManifest stores a manifest or index as it came, with labels that say what it needs.
func (p *pull) keepManifest(ctx context.Context, m registry.Manifest, labels map[string]string) error {
	unlock, err := p.busy.Lock(ctx, m.Descriptor.Digest.String())
	if err != nil {
		return err
	}
	defer unlock()
	err = p.lease.Ingest(ctx, blobs.Transfer{Descriptor: m.Descriptor, Labels: labels, Open: openBytes(m.Content)})
	if err != nil {
		return err
	}
	// An index that was here for another platform has not the label for this one.
	info, err := p.content.Info(ctx, m.Descriptor.Digest)
	if err != nil {
		return err
	}
	for key, value := range labels {
		if info.GetLabels()[key] != value {
			if err := p.content.SetLabel(ctx, m.Descriptor.Digest, key, value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pull) fetchConfig(ctx context.Context, s *source, wanted *ocispec.Platform) error {
	desc := s.manifest.Config
	if desc.Size > maxConfig {
		return invalid("the image's configuration has %d bytes, more than the %d allowed", desc.Size, maxConfig)
	}
	if err := p.fetch(ctx, desc, nil); err != nil {
		return err
	}
	var err error
	if s.rawConfig, err = p.content.ReadAll(ctx, desc, maxConfig); err != nil {
		return err
	}
	if err := json.Unmarshal(s.rawConfig, &s.config); err != nil {
		return invalid("the image's configuration is not valid: %v", err)
	}
	return checkConfig(s, wanted)
}

// checkConfig refuses a configuration that does not fit its manifest or the host.
func checkConfig(s *source, wanted *ocispec.Platform) error {
	diffIDs := s.config.RootFS.DiffIDs
	if len(diffIDs) != len(s.manifest.Layers) {
		return invalid("the image's configuration lists %d layers, its manifest %d", len(diffIDs), len(s.manifest.Layers))
	}
	for _, d := range diffIDs {
		if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
			return invalid("the image's configuration has a layer with the digest %q, which is not SHA-256", d)
		}
	}
	if s.config.OS != "" && s.config.OS != "linux" {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("the image is for %s, this host runs linux", s.config.OS))
	}
	if wanted != nil && wanted.Architecture != "" && s.config.Architecture != "" && s.config.Architecture != architecture(wanted.Architecture) {
		return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("the image is for %s/%s only, not for %s", s.config.OS, s.config.Architecture, describe(*wanted)))
	}
	return nil
}

func manifestLabels(m ocispec.Manifest) map[string]string {
	labels := map[string]string{blobs.RefLabel + ".config": m.Config.Digest.String()}
	for i, layer := range m.Layers {
		labels[fmt.Sprintf("%s.l.%d", blobs.RefLabel, i)] = layer.Digest.String()
	}
	return labels
}

// childLabel is the label of an index for the one of its manifests that is kept. The others are never fetched, and
// labels for thousands of them would make the index too large to be listed.
func childLabel(list ocispec.Index, chosen ocispec.Descriptor) string {
	i := slices.IndexFunc(list.Manifests, func(m ocispec.Descriptor) bool { return m.Digest == chosen.Digest })
	return fmt.Sprintf("%s.m.%d", blobs.RefLabel, i)
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == registry.MediaTypeDockerList
}

// shape is what tells a manifest from an index, whatever either is called: a document that is both could be read as
// one by whoever checked it and as the other here.
type shape struct {
	MediaType string            `json:"mediaType"`
	Config    json.RawMessage   `json:"config"`
	Layers    []json.RawMessage `json:"layers"`
	Manifests []json.RawMessage `json:"manifests"`
}

func parseIndex(m registry.Manifest) (list ocispec.Index, err error) {
	var s shape
	if err := json.Unmarshal(m.Content, &s); err != nil {
		return list, invalid("the image's index is not valid: %v", err)
	}
	if s.Config != nil || s.Layers != nil || s.MediaType != "" && s.MediaType != m.Descriptor.MediaType {
		return list, invalid("the registry calls a document an index that is something else")
	}
	if err := json.Unmarshal(m.Content, &list); err != nil {
		return list, invalid("the image's index is not valid: %v", err)
	}
	for _, entry := range list.Manifests {
		if err := checkDescriptor(entry); err != nil {
			return list, err
		}
	}
	return list, nil
}

func parseManifest(found registry.Manifest) (m ocispec.Manifest, err error) {
	mediaType := found.Descriptor.MediaType
	if mediaType != ocispec.MediaTypeImageManifest && mediaType != registry.MediaTypeDockerManifest {
		return m, errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("manifests of the type %q are not implemented", mediaType))
	}
	var s shape
	if err := json.Unmarshal(found.Content, &s); err != nil {
		return m, invalid("the image's manifest is not valid: %v", err)
	}
	if s.Manifests != nil || s.MediaType != "" && s.MediaType != mediaType {
		return m, invalid("the registry calls a document a manifest that is something else")
	}
	if err := json.Unmarshal(found.Content, &m); err != nil {
		return m, invalid("the image's manifest is not valid: %v", err)
	}
	if !isConfig(m.Config.MediaType) {
		return m, errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("content of the type %q, which is no container image, is not implemented", m.Config.MediaType))
	}
	if len(m.Layers) > maxLayers {
		return m, invalid("the image has %d layers, more than the %d that can be stacked", len(m.Layers), maxLayers)
	}
	if err := checkDescriptor(m.Config); err != nil {
		return m, err
	}
	for _, layer := range m.Layers {
		if err := checkDescriptor(layer); err != nil {
			return m, err
		}
		if !isLayer(layer.MediaType) {
			return m, errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("layers of the type %q are not implemented", layer.MediaType))
		}
	}
	return m, nil
}

// isConfig knows the types of configurations. Docker's pushes of 2016 called them application/octet-stream or nothing.
func isConfig(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageConfig, registry.MediaTypeDockerConfig, "application/octet-stream", "":
		return true
	}
	return false
}

// isLayer knows the types of archives. What compresses them, the archive's first bytes tell.
func isLayer(mediaType string) bool {
	return isForeign(mediaType) || hasBase(mediaType, ocispec.MediaTypeImageLayer) || hasBase(mediaType, "application/vnd.docker.image.rootfs.diff.tar")
}

// isForeign knows the types of archives whose licence forbids to push them.
func isForeign(mediaType string) bool {
	return hasBase(mediaType, "application/vnd.oci.image.layer.nondistributable.v1.tar") ||
		hasBase(mediaType, "application/vnd.docker.image.rootfs.foreign.diff.tar")
}

// hasBase tells whether a type is base, or one of its compressions: the OCI writes +gzip, Docker .gzip. Others, as
// +encrypted, change more than that.
func hasBase(mediaType, base string) bool {
	suffix, is := strings.CutPrefix(mediaType, base)
	return is && slices.Contains([]string{"", "+gzip", ".gzip", "+zstd", ".zstd"}, suffix)
}

func checkDescriptor(desc ocispec.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		return invalid("the image's manifest has the digest %q: %v", desc.Digest, err)
	}
	if desc.Digest.Algorithm() != digest.SHA256 {
		return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("digests of the algorithm %q are not implemented", desc.Digest.Algorithm()))
	}
	if desc.Size < 0 {
		return invalid("the image's manifest says that %s has %d bytes", desc.Digest, desc.Size)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf(format, args...))
}
