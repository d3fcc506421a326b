package stores_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"testing"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// berthd is a daemon that keeps everything in stand-alone stores.
type berthd struct {
	*testenv.Daemon
	t          testing.TB
	containers berthv1.ContainersServiceClient
	images     berthv1.ImagesServiceClient
}

func startBerthd(t testing.TB, content, snapshots *service) *berthd {
	t.Helper()
	d := testenv.StartDaemon(t, "--content-address", content.Address, "--snapshotter-address", snapshots.Address)
	conn := d.Dial()
	return &berthd{d, t, berthv1.NewContainersServiceClient(conn), berthv1.NewImagesServiceClient(conn)}
}

func (d *berthd) pull(ctx context.Context, image string) {
	d.t.Helper()
	stream, err := d.images.PullImage(ctx, &berthv1.PullImageRequest{Reference: image})
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		d.t.Fatalf("pull: %v", err)
	}
}

// run runs a shell script in a container and returns its exit code.
func (d *berthd) run(ctx context.Context, name, image, script string) int32 {
	d.t.Helper()
	_, err := d.containers.CreateContainer(ctx, &berthv1.CreateContainerRequest{
		Name: name, Spec: &berthv1.ContainerSpec{Image: image, Process: &berthv1.ProcessSpec{Args: []string{"sh", "-c", script}}},
	})
	if err == nil {
		_, err = d.containers.StartContainer(ctx, &berthv1.StartContainerRequest{Container: name})
	}
	var exit *berthv1.WaitContainerResponse
	if err == nil {
		exit, err = d.containers.WaitContainer(ctx, &berthv1.WaitContainerRequest{Container: name})
	}
	if err != nil {
		d.t.Fatalf("run %q: %v", name, err)
	}
	return exit.ExitCode
}

func TestBerthdOnStoresThatAreKilled(t *testing.T) {
	testenv.NeedRoot(t)
	image := testenv.BusyboxImage(t, testenv.Registry(t))
	dir := testenv.ShortDir(t)
	content, snapshots := start(t, "berth-contentstore", dir), start(t, "berth-snapshotter", dir)
	d := startBerthd(t, content, snapshots)
	d.pull(t.Context(), image)
	if blobs := files(t, filepath.Join(content.Root, "blobs", "sha256")); len(blobs) != 3 {
		t.Errorf("the content store has %d blobs, want manifest, configuration and layer", len(blobs))
	}
	if code := d.run(t.Context(), "writer", image, "echo mine >/etc/mine; rm /etc/passwd; exit 5"); code != 5 {
		t.Errorf("exit code %d", code)
	}

	// The stores may be restarted, and killed, without berthd: it finds them again.
	for _, s := range []*service{content, snapshots} {
		s.kill()
		s.start()
	}
	if code := d.run(t.Context(), "reader", image, "[ -e /etc/passwd ] && ! [ -e /etc/mine ]"); code != 0 {
		t.Error("one container sees what another wrote")
	}
	if _, err := d.containers.StartContainer(t.Context(), &berthv1.StartContainerRequest{Container: "writer"}); err != nil {
		t.Errorf("the layer from before the restart: %v", err)
	}
	for _, name := range []string{"writer", "reader"} {
		_, err := d.containers.RemoveContainer(t.Context(), &berthv1.RemoveContainerRequest{Container: name, Force: true})
		if err != nil {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	if _, err := d.images.RemoveImage(t.Context(), &berthv1.RemoveImageRequest{Image: image}); err != nil {
		t.Fatal(err)
	}
	if blobs := files(t, filepath.Join(content.Root, "blobs", "sha256")); len(blobs) != 0 {
		t.Errorf("blobs left without an image: %v", blobs)
	}
	if err := snapshots.stop(); err != nil { // waits for directories that are being removed
		t.Error(err)
	}
	if layers := files(t, filepath.Join(snapshots.Root, "snapshots")); len(layers) != 0 {
		t.Errorf("layers left without an image: %v", layers)
	}
}
