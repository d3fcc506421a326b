// Package images_test drives berthd's images service as a client does, with a real registry, and a real proxy before it
// that cuts and corrupts what it passes on.
package images_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

const limit = 30 * time.Second

// host is a berthd whose snapshotter is a program of its own, so that tests can look into it.
type host struct {
	*testenv.Daemon
	t         testing.TB
	dir       string
	images    berthv1.ImagesServiceClient
	snapshots snapshotsapi.SnapshotsClient
}

func newHost(t testing.TB) *host {
	t.Helper()
	testenv.NeedRoot(t)
	return newHostOn(t, testenv.ShortDir(t))
}

// newHostOn keeps the snapshots below dir, and gives berthd further arguments.
func newHostOn(t testing.TB, dir string, args ...string) *host {
	t.Helper()
	socket := "unix://" + startSnapshotter(t, dir)
	daemon := testenv.StartDaemon(t, append(args, "--snapshotter-address", socket, "--log-level", "debug")...)
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &host{
		Daemon: daemon, t: t, dir: dir,
		images: berthv1.NewImagesServiceClient(daemon.Dial()), snapshots: snapshotsapi.NewSnapshotsClient(conn),
	}
}

// startSnapshotter returns the socket of a berth-snapshotter that keeps its snapshots below dir.
func startSnapshotter(t testing.TB, dir string) string {
	t.Helper()
	socket := filepath.Join(dir, "snapshots.sock")
	cmd := exec.Command(testenv.Binary(t, "berth-snapshotter"), "--root", filepath.Join(dir, "snapshots"), "--address", socket)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	testenv.Until(t, limit, "berth-snapshotter listens", func() error {
		_, err := os.Stat(socket)
		return err
	})
	return socket
}

// pulled is all that a pull said.
type pulled struct {
	result   *berthv1.PullResult
	progress []*berthv1.Progress
}

// phases are what happened to a layer, without repetitions.
func (p pulled) phases(digest string) []berthv1.Phase {
	var phases []berthv1.Phase
	for _, progress := range p.progress {
		if progress.GetDigest() == digest {
			phases = append(phases, progress.GetPhase())
		}
	}
	return slices.Compact(phases)
}

func (h *host) pull(request *berthv1.PullImageRequest) (pulled, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), 4*limit)
	defer cancel()
	var p pulled
	stream, err := h.images.PullImage(ctx, request)
	if err != nil {
		return p, err
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return p, nil
		}
		if err != nil {
			return p, err
		}
		if progress := message.GetProgress(); progress != nil {
			p.progress = append(p.progress, progress)
		} else {
			p.result = message.GetResult()
		}
	}
}

func (h *host) mustPull(reference string) pulled {
	h.t.Helper()
	p, err := h.pull(&berthv1.PullImageRequest{Reference: reference})
	if err != nil {
		h.t.Fatalf("cannot pull %s: %v", reference, err)
	}
	return p
}

func (h *host) inspect(reference string) *berthv1.Image {
	h.t.Helper()
	response, err := h.images.InspectImage(h.t.Context(), &berthv1.InspectImageRequest{Image: reference})
	if err != nil {
		h.t.Fatal(err)
	}
	return response.GetImage()
}

func (h *host) list(filters ...*berthv1.Filter) []*berthv1.Image {
	h.t.Helper()
	response, err := h.images.ListImages(h.t.Context(), &berthv1.ListImagesRequest{Filters: filters})
	if err != nil {
		h.t.Fatal(err)
	}
	return response.GetImages()
}

func (h *host) snapshotContext() context.Context {
	return metadata.AppendToOutgoingContext(h.t.Context(), "containerd-namespace", "berth")
}

// snapshotKeys lists all snapshots.
func (h *host) snapshotKeys() []string {
	h.t.Helper()
	stream, err := h.snapshots.List(h.snapshotContext(), &snapshotsapi.ListSnapshotsRequest{Snapshotter: "overlay"})
	if err != nil {
		h.t.Fatal(err)
	}
	var keys []string
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return keys
		}
		if err != nil {
			h.t.Fatal(err)
		}
		for _, info := range response.GetInfo() {
			keys = append(keys, info.GetName())
		}
	}
}

// look mounts the layers of an image and hands the directory to see.
func (h *host) look(chainID string, see func(root string)) {
	h.t.Helper()
	key := "look-" + chainID
	view, err := h.snapshots.View(h.snapshotContext(), &snapshotsapi.ViewSnapshotRequest{Snapshotter: "overlay", Key: key, Parent: chainID})
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() {
		if _, err := h.snapshots.Remove(h.snapshotContext(), &snapshotsapi.RemoveSnapshotRequest{Snapshotter: "overlay", Key: key}); err != nil {
			h.t.Error(err)
		}
	}()
	target := h.t.TempDir()
	for _, m := range view.GetMounts() {
		var flags uintptr
		var data []string
		for _, option := range m.GetOptions() {
			switch option {
			case "ro":
				flags |= unix.MS_RDONLY
			case "rbind", "bind":
				flags |= unix.MS_BIND
			default:
				data = append(data, option)
			}
		}
		if err := unix.Mount(m.GetSource(), target, m.GetType(), flags, strings.Join(data, ",")); err != nil {
			h.t.Fatal(err)
		}
		defer func() {
			if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
				h.t.Error(err)
			}
		}()
	}
	see(target)
}

// wantNothingLeft fails if anything of an image is on the host, except for transfers that can be continued.
func (h *host) wantNothingLeft() {
	h.t.Helper()
	if images := h.list(); len(images) > 0 {
		h.t.Errorf("images are left: %v", images)
	}
	if keys := h.snapshotKeys(); len(keys) > 0 {
		h.t.Errorf("snapshots are left: %v", keys)
	}
	if blobs := h.blobs(); len(blobs) > 0 {
		h.t.Errorf("content is left: %v", blobs)
	}
	if entries, err := os.ReadDir(filepath.Join(h.dir, "snapshots", "snapshots")); err == nil && len(entries) > 0 {
		h.t.Errorf("directories of snapshots are left: %v", entries)
	}
}

// blobs lists the files of the content store.
func (h *host) blobs() []string {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(h.Root, "content/blobs/sha256/*"))
	if err != nil {
		h.t.Fatal(err)
	}
	return files
}

func wantCode(t testing.TB, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("got %v, want the code %s", err, code)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}
