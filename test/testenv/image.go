package testenv

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// PushImage makes an image of one layer from a directory and pushes it to a registry. config is the "config" of the
// OCI image configuration. It returns the image's name.
func PushImage(t testing.TB, registry, repository, dir string, config map[string]any) string {
	t.Helper()
	plain, packed := layer(t, dir)
	image := map[string]any{
		"created": time.Now().UTC().Format(time.RFC3339), "architecture": runtime.GOARCH, "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(plain)}},
	}
	const prefix = "application/vnd.oci.image."
	manifest := map[string]any{
		"schemaVersion": 2, "mediaType": prefix + "manifest.v1+json",
		"config": pushBlob(t, registry, repository, prefix+"config.v1+json", encode(t, image)),
		"layers": []any{pushBlob(t, registry, repository, prefix+"layer.v1.tar+gzip", packed)},
	}
	put(t, fmt.Sprintf("http://%s/v2/%s/manifests/latest", registry, repository), prefix+"manifest.v1+json", encode(t, manifest))
	return registry + "/" + repository + ":latest"
}

// BusyboxImage pushes an image of Debian's busybox and returns its name.
func BusyboxImage(t testing.TB, registry string) string {
	t.Helper()
	return PushImage(t, registry, "test/busybox", BusyboxRootfs(t), map[string]any{
		"Cmd": []string{"sh"}, "Env": []string{"PATH=/usr/local/bin:/usr/bin:/bin", "IMAGE=busybox"},
	})
}

func layer(t testing.TB, dir string) (plain, packed []byte) {
	t.Helper()
	var archive, zipped bytes.Buffer
	writer := tar.NewWriter(&archive)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return addFile(writer, dir, path)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	compressor := gzip.NewWriter(&zipped)
	if _, err := compressor.Write(archive.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := compressor.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes(), zipped.Bytes()
}

func addFile(writer *tar.Writer, dir, path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	if header.Name, err = filepath.Rel(dir, path); err != nil {
		return err
	}
	header.Uname, header.Gname = "", ""
	if err := writer.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = writer.Write(content)
	return err
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func encode(t testing.TB, value any) []byte {
	t.Helper()
	encoded, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// pushBlob uploads content and returns its descriptor.
func pushBlob(t testing.TB, registry, repository, mediaType string, content []byte) map[string]any {
	t.Helper()
	response, err := http.Post(fmt.Sprintf("http://%s/v2/%s/blobs/uploads/", registry, repository), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	location, err := response.Location()
	if err != nil {
		t.Fatalf("the registry takes no upload: %s: %v", response.Status, err)
	}
	query := location.Query()
	query.Set("digest", digest(content))
	location.RawQuery = query.Encode()
	put(t, location.String(), "application/octet-stream", content)
	return map[string]any{"mediaType": mediaType, "digest": digest(content), "size": len(content)}
}

func put(t testing.TB, url, contentType string, content []byte) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPut, url, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", contentType)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		t.Fatalf("cannot push to %s: %s", url, response.Status)
	}
}

// Tar returns a layer with what a directory has.
func Tar(t testing.TB, root string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	if err := errors.Join(w.AddFS(os.DirFS(root)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}
