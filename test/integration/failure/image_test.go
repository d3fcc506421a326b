package failure_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// pushBusybox puts an image into a registry: busybox, and layers of random content of the given sizes above it.
// It returns the image's name.
func pushBusybox(t testing.TB, registry string, more ...int) string {
	t.Helper()
	layers := [][]byte{testenv.Tar(t, testenv.BusyboxRootfs(t))}
	for i, size := range more {
		layers = append(layers, tarFile(t, fmt.Sprintf("random-%d", i), size))
	}
	image := ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
		Config:   ocispec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	repository := "http://" + registry + "/v2/test/busybox"
	for _, layer := range layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, digest.FromBytes(layer))
		manifest.Layers = append(manifest.Layers, upload(t, repository, ocispec.MediaTypeImageLayerGzip, compress(t, layer)))
	}
	manifest.Config = upload(t, repository, ocispec.MediaTypeImageConfig, mustJSON(t, image))
	send(t, http.MethodPut, repository+"/manifests/latest", ocispec.MediaTypeImageManifest, mustJSON(t, manifest))
	return registry + "/test/busybox:latest"
}

func upload(t testing.TB, repository, mediaType string, content []byte) ocispec.Descriptor {
	t.Helper()
	begun := send(t, http.MethodPost, repository+"/blobs/uploads/", "", nil)
	location, err := begun.Request.URL.Parse(begun.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	descriptor := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	query := location.Query()
	query.Set("digest", descriptor.Digest.String())
	location.RawQuery = query.Encode()
	send(t, http.MethodPut, location.String(), "application/octet-stream", content)
	return descriptor
}

func send(t testing.TB, method, url, mediaType string, content []byte) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if mediaType != "" {
		request.Header.Set("Content-Type", mediaType)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	if response.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s\n%s", method, url, response.Status, text)
	}
	return response
}

// pull pulls an image and returns how that ended.
func (d *daemon) pull(image string) error {
	stream, err := d.images().PullImage(d.t.Context(), &berthv1.PullImageRequest{Reference: image})
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// startWithImage starts a daemon that has the busybox image.
func startWithImage(t testing.TB) (*daemon, string) {
	t.Helper()
	testenv.NeedRoot(t)
	image := pushBusybox(t, testenv.Registry(t))
	d := startDaemon(t)
	if err := d.pull(image); err != nil {
		t.Fatal(err)
	}
	return d, image
}

func compress(t testing.TB, content []byte) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w, err := gzip.NewWriterLevel(&buffer, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(content)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	content, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func tarFile(t testing.TB, name string, size int) []byte {
	t.Helper()
	content := make([]byte, size)
	_, _ = rand.Read(content) // never fails
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)})
	if err == nil {
		_, err = w.Write(content)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}
