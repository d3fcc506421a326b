// Package registry speaks to one repository of a container registry. It adds to the client library what a pull of
// large layers over bad networks needs: ranges, stalled connections that end, and errors that say what to do.
package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/berthd/berth/internal/errdefs"
)

// Media types that Docker gave its manifests before the OCI did.
const (
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	mediaTypeDockerSchema1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// maxManifest bounds a manifest, as the distribution specification advises.
const maxManifest = 4 << 20

// Credentials for one call. At most one of the three kinds is set.
type Credentials struct {
	Username, Password string
	// IdentityToken is a refresh token, RegistryToken a bearer token to send as it is.
	IdentityToken, RegistryToken string
}

// Options say how to reach a registry.
type Options struct {
	Credentials Credentials
	// Insecure lists registries, as host or host:port, that are spoken to over plain HTTP. Loopback ones always are.
	Insecure []string
}

// Client makes connections to registries. It is shared, so that connections are.
type Client struct {
	http *http.Client
}

// NewClient makes a client with timeouts that suit registries.
func NewClient() *Client {
	return &Client{http: &http.Client{CheckRedirect: followRedirect, Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: stallTimeout,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
		// A layer is compressed already, and a range of a recompressed one means nothing.
		DisableCompression: true,
	}}}
}

// Repository is one repository of a registry.
type Repository struct {
	name reference.Named
	repo *remote.Repository
	auth *authorizer
}

// Open addresses the repository of a name. Nothing is sent yet.
func (c *Client) Open(name reference.Named, options Options) (*Repository, error) {
	repo, err := remote.NewRepository(name.Name())
	if err != nil {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot use the repository name %q: %w", name.Name(), err))
	}
	host := reference.Domain(name)
	client := newAuthorizer(c.http, repo.Reference.Host(), options.Credentials)
	repo.Client = client
	repo.PlainHTTP = plainHTTP(host, options.Insecure)
	repo.ManifestMediaTypes = []string{
		ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, MediaTypeDockerList, MediaTypeDockerManifest,
	}
	repo.MaxMetadataBytes = maxManifest
	repo.SkipReferrersGC = true
	return &Repository{name: name, repo: repo, auth: client}, nil
}

func plainHTTP(host string, insecure []string) bool {
	return isLoopback(host) || slices.Contains(insecure, host) || slices.Contains(insecure, hostOnly(host))
}

func hostOnly(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

func isLoopback(host string) bool {
	name := hostOnly(host)
	addr, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && addr.IsLoopback()
}

// Manifest is a manifest or index as the registry sent it.
type Manifest struct {
	Descriptor ocispec.Descriptor
	Content    []byte
}

// Resolve fetches the manifest or index that a tag or a digest names.
func (r *Repository) Resolve(ctx context.Context, tagOrDigest string) (Manifest, error) {
	wanted, err := digest.Parse(tagOrDigest)
	isDigest := err == nil
	if isDigest && wanted.Algorithm() != digest.SHA256 {
		return Manifest{}, errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("digests of the algorithm %q are not implemented", wanted.Algorithm()))
	}
	manifest, err := r.manifest(ctx, tagOrDigest, r.repo.ManifestMediaTypes)
	if err != nil {
		return Manifest{}, err
	}
	if manifest.Descriptor.MediaType == mediaTypeDockerSchema1 {
		return Manifest{}, errdefs.As(errdefs.ErrUnimplemented, errors.New("images of Docker's schema 1 are not implemented: the publisher has to push it again with a tool of this decade"))
	}
	if isDigest && manifest.Descriptor.Digest != wanted {
		return Manifest{}, mismatch(wanted, manifest.Descriptor.Digest)
	}
	return manifest, nil
}

// Manifest fetches a manifest by its descriptor, and checks it against that.
func (r *Repository) Manifest(ctx context.Context, desc ocispec.Descriptor) (Manifest, error) {
	if desc.Size > maxManifest {
		return Manifest{}, tooLarge()
	}
	manifest, err := r.manifest(ctx, desc.Digest.String(), []string{desc.MediaType})
	if err != nil {
		return Manifest{}, err
	}
	if manifest.Descriptor.Digest != desc.Digest || manifest.Descriptor.Size != desc.Size {
		return Manifest{}, mismatch(desc.Digest, manifest.Descriptor.Digest)
	}
	manifest.Descriptor = desc
	return manifest, nil
}

func mismatch(wanted, got digest.Digest) error {
	return errdefs.As(errdefs.ErrDataLoss, fmt.Errorf("the registry was asked for manifest %s and sent one with the digest %s", wanted, got))
}

func tooLarge() error {
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("the manifest is larger than the %d bytes allowed", maxManifest))
}

func (r *Repository) manifest(ctx context.Context, tagOrDigest string, accept []string) (Manifest, error) {
	response, err := r.get(ctx, "manifests/"+tagOrDigest, http.Header{"Accept": accept})
	if err != nil {
		return Manifest{}, err
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxManifest+1))
	if err != nil {
		return Manifest{}, err
	}
	if len(content) > maxManifest {
		return Manifest{}, tooLarge()
	}
	mediaType, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err != nil {
		return Manifest{}, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("the registry sent a manifest of the type %q", response.Header.Get("Content-Type")))
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	return Manifest{Descriptor: desc, Content: content}, nil
}

// HasBlob tells whether the repository has a blob.
func (r *Repository) HasBlob(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	exists, err := r.repo.Blobs().Exists(ctx, desc)
	return exists, classify(err)
}

// PushBlob uploads a blob.
func (r *Repository) PushBlob(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := newUploadReader(content, cancel)
	defer watched.stop()
	err := r.repo.Blobs().Push(ctx, desc, watched)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return classify(err)
}

// PushManifest uploads a manifest or index under a tag.
func (r *Repository) PushManifest(ctx context.Context, desc ocispec.Descriptor, content []byte, tag string) error {
	return classify(r.repo.Manifests().PushReference(ctx, desc, bytes.NewReader(content), tag))
}
