package images_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// replace makes each response for a path that ends so have other content.
func replace(suffix string, content []byte) func(*http.Response) error {
	return func(response *http.Response) error {
		if strings.HasSuffix(response.Request.URL.Path, suffix) {
			_ = response.Body.Close()
			response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(content)), int64(len(content))
			response.Header.Set("Content-Length", fmt.Sprint(len(content)))
		}
		return nil
	}
}

// endless makes each response for a path that ends so go on for ever, without a length.
func endless(suffix string) func(*http.Response) error {
	return func(response *http.Response) error {
		if strings.HasSuffix(response.Request.URL.Path, suffix) {
			body := response.Body
			response.Body, response.ContentLength = io.NopCloser(io.MultiReader(body, zeros{})), -1
			response.Header.Del("Content-Length")
		}
		return nil
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestPullRefusesAHostileRegistry(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("app", "latest", nil, gzipped(t, archive(t, file("a", noise(1<<20)))))
	x := newProxy(t, r)
	layer, config := made.layers[0].digest(), made.config.Digest.String()
	cases := []struct {
		name  string
		spoil func(*http.Response) error
		code  codes.Code
		words string
	}{
		{"layer without an end", endless(layer), codes.DataLoss, "longer"},
		{"configuration without an end", endless(config), codes.DataLoss, "longer"},
		{"manifest without an end", endless("/manifests/latest"), codes.InvalidArgument, "larger"},
		{"layer of another length", replace(layer, made.layers[0].blob[:1000]), codes.DataLoss, "1000 bytes"},
		{"manifest that is rubbish", replace("/manifests/latest", []byte("rubbish")), codes.InvalidArgument, "manifest"},
		{"manifest of nothing", replace("/manifests/latest", []byte("{}")), codes.InvalidArgument, "digest"},
		{"manifest of another type", func(response *http.Response) error {
			if strings.HasSuffix(response.Request.URL.Path, "/manifests/latest") {
				response.Header.Set("Content-Type", "text/html")
			}
			return nil
		}, codes.Unimplemented, "text/html"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			x.do(c.spoil)
			_, err := h.pull(&berthv1.PullImageRequest{Reference: x.host + "/app"})
			wantCode(t, err, c.code, c.words)
			h.wantNothingLeft()
		})
	}
	x.do(nil)
	h.mustPull(x.host + "/app")
}

func TestPullOnAFullDisk(t *testing.T) {
	testenv.NeedRoot(t)
	disk := filepath.Join(testenv.ShortDir(t), "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	h, r := newHostOn(t, disk), newRegistry(t)
	r.push("big", "latest", nil, gzipped(t, archive(t, file("small", "1"))), plain(archive(t, file("noise", noise(16<<20)))))
	r.push("small", "latest", nil, gzipped(t, archive(t, file("small", "2"))))
	_, err := h.pull(&berthv1.PullImageRequest{Reference: r.host + "/big"})
	wantCode(t, err, codes.ResourceExhausted, "noise", "no space left")
	h.wantNothingLeft()
	h.mustPull(r.host + "/small")
}

// berthd is killed while it unpacks. The next one removes what is there of the image, and can pull it.
func TestKillWhileUnpacking(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("big", "latest", nil, gzipped(t, archive(t, file("small", "1"))), bombOf(t, 300<<20))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := h.images.PullImage(ctx, &berthv1.PullImageRequest{Reference: r.host + "/big"})
	if err != nil {
		t.Fatal(err)
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		p := message.GetProgress()
		if p.GetDigest() == made.layers[1].digest() && p.GetPhase() == berthv1.Phase_PHASE_EXTRACTING && p.GetCurrent() > 0 {
			break
		}
	}
	h.Kill()
	if keys := h.snapshotKeys(); len(keys) < 2 {
		t.Errorf("there are the snapshots %q, none of a layer on its way", keys)
	}
	h.Start()
	h.wantNothingLeft()
	h.mustPull(r.host + "/big")
}

// berthd works with stores of other processes as with its own, and goes on when they come back.
func TestStoresOfOtherProcesses(t *testing.T) {
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	socket := filepath.Join(dir, "content.sock")
	var cmd *exec.Cmd
	start := func() {
		cmd = exec.Command(testenv.Binary(t, "berth-contentstore"), "--root", filepath.Join(dir, "content"), "--address", socket)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		testenv.Until(t, limit, "berth-contentstore listens", func() error {
			_, err := os.Stat(socket)
			return err
		})
	}
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	start()
	t.Cleanup(func() { stop() })
	h, r := newHostOn(t, dir, "--content-address", "unix://"+socket), newRegistry(t)
	made := r.push("app", "latest", nil, gzipped(t, archive(t, file("a", "1"))), plain(archive(t, file("b", noise(2<<20)))))
	h.mustPull(r.host + "/app")
	if _, err := os.Stat(filepath.Join(dir, "content/blobs/sha256", made.manifest.Digest.Encoded())); err != nil {
		t.Errorf("the content is not in the other process's store: %v", err)
	}
	if _, err := h.remove(r.host+"/app", false); err != nil {
		t.Fatal(err)
	}
	h.wantNothingLeft()
	stop()
	_, err := h.pull(&berthv1.PullImageRequest{Reference: r.host + "/app"})
	wantCode(t, err, codes.Unavailable, "app")
	start()
	testenv.Until(t, limit, "a pull works again", func() error {
		_, err := h.pull(&berthv1.PullImageRequest{Reference: r.host + "/app"})
		return err
	})
	if blobs, err := os.ReadDir(filepath.Join(dir, "content/blobs/sha256")); err != nil || len(blobs) != 4 {
		t.Errorf("the store has %d blobs, %v", len(blobs), err)
	}
}
