package images_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/test/testenv"
)

// layer is one layer of a test image.
type layer struct {
	mediaType string
	archive   []byte
	// blob is archive as it is sent.
	blob []byte
	// diffID is archive's digest; empty: computed.
	diffID digest.Digest
}

func (l layer) digest() string { return digest.FromBytes(l.blob).String() }

// entry makes a header of an archive; a file if it has content.
func entry(name string, kind byte, linkOrContent string) tar.Header {
	header := tar.Header{Name: name, Typeflag: kind, Mode: 0o755, ModTime: time.Unix(1_000_000_000, 0)}
	if kind == tar.TypeReg {
		header.PAXRecords = map[string]string{"content": linkOrContent}
	} else {
		header.Linkname = linkOrContent
	}
	return header
}

func file(name, content string) tar.Header { return entry(name, tar.TypeReg, content) }

func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, header := range entries {
		content := header.PAXRecords["content"]
		header.PAXRecords, header.Size = nil, int64(len(content))
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func plain(archive []byte) layer {
	return layer{mediaType: ocispec.MediaTypeImageLayer, archive: archive, blob: archive}
}

func gzipped(t testing.TB, archive []byte) layer {
	t.Helper()
	var buffer bytes.Buffer
	w := gzip.NewWriter(&buffer)
	if _, err := w.Write(archive); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return layer{mediaType: ocispec.MediaTypeImageLayerGzip, archive: archive, blob: buffer.Bytes()}
}

// bombOf is a layer of one file of zeros. Its archive is not kept, as it would not fit into memory twice.
func bombOf(t testing.TB, size int64) layer {
	t.Helper()
	var buffer bytes.Buffer
	compressed, err := gzip.NewWriterLevel(&buffer, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	hash := digest.Canonical.Digester()
	w := tar.NewWriter(io.MultiWriter(compressed, hash.Hash()))
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: size, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for left := size; left > 0; left -= int64(len(zeros)) {
		if _, err := w.Write(zeros[:min(left, int64(len(zeros)))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), compressed.Close()); err != nil {
		t.Fatal(err)
	}
	return layer{mediaType: ocispec.MediaTypeImageLayerGzip, blob: buffer.Bytes(), diffID: hash.Digest()}
}

func zstandard(t testing.TB, archive []byte) layer {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return layer{mediaType: ocispec.MediaTypeImageLayerZstd, archive: archive, blob: w.EncodeAll(archive, nil)}
}

// image is what the registry has of a test image.
type image struct {
	manifest ocispec.Descriptor
	config   ocispec.Descriptor
	layers   []layer
	chainID  string
}

// registry is docker-registry, and the client that fills it.
type registry struct {
	t    testing.TB
	host string
}

func newRegistry(t testing.TB) registry { return registry{t: t, host: testenv.Registry(t)} }

func (r registry) send(method, url, mediaType string, content []byte) *http.Response {
	r.t.Helper()
	request, err := http.NewRequest(method, url, bytes.NewReader(content))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Content-Type", mediaType)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if response.StatusCode >= 300 {
		r.t.Fatalf("%s %s: %s: %s", method, url, response.Status, body)
	}
	return response
}

func (r registry) pushBlob(repository string, content []byte) digest.Digest {
	r.t.Helper()
	d := digest.FromBytes(content)
	response := r.send(http.MethodPost, fmt.Sprintf("http://%s/v2/%s/blobs/uploads/", r.host, repository), "", nil)
	place, err := url.Parse(response.Header.Get("Location"))
	if err != nil {
		r.t.Fatal(err)
	}
	query := place.Query()
	query.Set("digest", d.String())
	place.RawQuery = query.Encode()
	r.send(http.MethodPut, place.String(), "application/octet-stream", content)
	return d
}

func (r registry) pushManifest(repository, reference, mediaType string, document any) ocispec.Descriptor {
	r.t.Helper()
	content, err := json.Marshal(document)
	if err != nil {
		r.t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	if reference == "" {
		reference = desc.Digest.String()
	}
	r.send(http.MethodPut, fmt.Sprintf("http://%s/v2/%s/manifests/%s", r.host, repository, reference), mediaType, content)
	return desc
}

// push makes an image of layers. change, if set, changes its configuration first.
func (r registry) push(repository, tag string, change func(*ocispec.Image), layers ...layer) image {
	r.t.Helper()
	created := time.Unix(1_700_000_000, 0).UTC()
	config := ocispec.Image{
		Created: &created, Author: "tester", Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		Config: ocispec.ImageConfig{Cmd: []string{"/hello"}, Labels: map[string]string{"repository": repository}},
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		diffID := l.diffID
		if diffID == "" {
			diffID = digest.FromBytes(l.archive)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{
			MediaType: l.mediaType, Digest: r.pushBlob(repository, l.blob), Size: int64(len(l.blob)),
		})
	}
	if change != nil {
		change(&config)
	}
	raw, err := json.Marshal(config)
	if err != nil {
		r.t.Fatal(err)
	}
	manifest.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: r.pushBlob(repository, raw), Size: int64(len(raw))}
	made := image{config: manifest.Config, layers: layers, chainID: identity.ChainID(config.RootFS.DiffIDs).String()}
	made.manifest = r.pushManifest(repository, tag, ocispec.MediaTypeImageManifest, manifest)
	return made
}

// proxy stands before a registry and does to responses what it is told.
type proxy struct {
	*httptest.Server
	host string

	mu       sync.Mutex
	requests []*http.Request
	spoil    func(*http.Response) error
}

func newProxy(t testing.TB, r registry) *proxy {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: r.host}
	p := &proxy{}
	forward := &httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(target)
			request.Out.Host = request.In.Host // the registry makes addresses of it
		},
		ModifyResponse: func(response *http.Response) error {
			p.mu.Lock()
			spoil := p.spoil
			p.mu.Unlock()
			if spoil != nil {
				return spoil(response)
			}
			return nil
		},
		// The error is what the test wants: the client sees a connection that breaks.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		p.mu.Lock()
		p.requests = append(p.requests, request.Clone(request.Context()))
		p.mu.Unlock()
		forward.ServeHTTP(w, request)
	}))
	p.host = strings.TrimPrefix(p.URL, "http://")
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
	})
	return p
}

// do sets what happens to responses from now on, and forgets the requests so far.
func (p *proxy) do(spoil func(*http.Response) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoil, p.requests = spoil, nil
}

// gets are the GET requests for a blob or manifest since the last do.
func (p *proxy) gets(digest string) []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []*http.Request
	for _, request := range p.requests {
		if request.Method == http.MethodGet && strings.HasSuffix(request.URL.Path, digest) {
			found = append(found, request)
		}
	}
	return found
}

// cut makes each response for a blob end after so many bytes.
func cut(digest string, after int64) func(*http.Response) error {
	return func(response *http.Response) error {
		if strings.HasSuffix(response.Request.URL.Path, digest) {
			response.Body = &cutBody{ReadCloser: response.Body, left: after}
		}
		return nil
	}
}

type cutBody struct {
	io.ReadCloser
	left int64
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// corrupt changes the first byte of each response for a blob.
func corrupt(digest string) func(*http.Response) error {
	return func(response *http.Response) error {
		if !strings.HasSuffix(response.Request.URL.Path, digest) {
			return nil
		}
		content, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		_ = response.Body.Close()
		if len(content) > 0 {
			content[0] ^= 0xff
		}
		response.Body = io.NopCloser(bytes.NewReader(content))
		response.Header.Set("Content-Length", strconv.Itoa(len(content)))
		return nil
	}
}

// answer makes each response for a path that ends so have a status instead.
func answer(suffix string, code int) func(*http.Response) error {
	return func(response *http.Response) error {
		if strings.HasSuffix(response.Request.URL.Path, suffix) {
			_ = response.Body.Close()
			response.StatusCode, response.Body, response.ContentLength = code, http.NoBody, 0
			response.Header.Del("Content-Length")
		}
		return nil
	}
}
