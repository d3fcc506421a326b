package stores_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
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
	return newBerthd(t, "--content-address", content.Address, "--snapshotter-address", snapshots.Address)
}

func newBerthd(t testing.TB, args ...string) *berthd {
	t.Helper()
	d := testenv.StartDaemon(t, args...)
	conn := d.Dial()
	return &berthd{d, t, berthv1.NewContainersServiceClient(conn), berthv1.NewImagesServiceClient(conn)}
}

func (d *berthd) pull(ctx context.Context, image string) {
	d.t.Helper()
	if err := d.tryPull(ctx, image); err != nil {
		d.t.Fatalf("pull: %v", err)
	}
}

func (d *berthd) tryPull(ctx context.Context, image string) error {
	stream, err := d.images.PullImage(ctx, &berthv1.PullImageRequest{Reference: image})
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (d *berthd) remove(ctx context.Context, names ...string) {
	d.t.Helper()
	for _, name := range names {
		if _, err := d.containers.RemoveContainer(ctx, &berthv1.RemoveContainerRequest{Container: name, Force: true}); err != nil {
			d.t.Errorf("remove %q: %v", name, err)
		}
	}
}

func (d *berthd) removeImage(ctx context.Context, image string) {
	d.t.Helper()
	if _, err := d.images.RemoveImage(ctx, &berthv1.RemoveImageRequest{Image: image}); err != nil {
		d.t.Errorf("remove image %q: %v", image, err)
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

// TestBerthdsShareStores has two daemons with the same image in the same stores. Neither takes it from the other, nor its
// containers.
func TestBerthdsShareStores(t *testing.T) {
	testenv.NeedRoot(t)
	image := testenv.BusyboxImage(t, testenv.Registry(t))
	dir := testenv.ShortDir(t)
	content, snapshots := start(t, "berth-contentstore", dir), start(t, "berth-snapshotter", dir)
	one, other := startBerthd(t, content, snapshots), startBerthd(t, content, snapshots)
	for _, d := range []*berthd{one, other} {
		d.pull(t.Context(), image)
	}
	if code := other.run(t.Context(), "mine", image, "echo mine >/etc/mine"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	one.removeImage(t.Context(), image)
	one.Stop() // and its start ends leases, and removes what it does not know
	one.Start()
	if code := other.run(t.Context(), "again", image, "true"); code != 0 {
		t.Errorf("exit code %d after the other daemon has removed the image", code)
	}
	if _, err := other.containers.StartContainer(t.Context(), &berthv1.StartContainerRequest{Container: "mine"}); err != nil {
		t.Errorf("a container's layer: %v", err)
	}
	other.Stop()
	other.Start()
	if code := other.run(t.Context(), "later", image, "true"); code != 0 {
		t.Errorf("exit code %d after a restart", code)
	}
	other.remove(t.Context(), "mine", "again", "later")
	other.removeImage(t.Context(), image)
	if blobs := files(t, filepath.Join(content.Root, "blobs", "sha256")); len(blobs) != 0 {
		t.Errorf("blobs left without an image: %v", blobs)
	}
	if err := snapshots.stop(); err != nil { // waits for directories that are being removed
		t.Error(err)
	}
	if layers := files(t, filepath.Join(snapshots.Root, "snapshots")); len(layers) != 0 {
		t.Errorf("layers left without an image: %v", layers)
	}
	snapshots.start() // for the daemons' own end
}

// TestStoreThatIsDownIsNamed asks for what needs a store that is not there. The answer must not sound as if berthd was gone.
func TestStoreThatIsDownIsNamed(t *testing.T) {
	testenv.NeedRoot(t)
	image := testenv.BusyboxImage(t, testenv.Registry(t))
	dir := testenv.ShortDir(t)
	content, snapshots := start(t, "berth-contentstore", dir), start(t, "berth-snapshotter", dir)
	d := startBerthd(t, content, snapshots)
	d.pull(t.Context(), image)
	named := func(what string, s *service, err error) {
		t.Helper()
		if want := "the " + what + " at unix://" + s.Address + " is not reachable"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	content.kill()
	named("content store", content, d.tryPull(t.Context(), image))
	snapshots.kill()
	create := func() error {
		_, err := d.containers.CreateContainer(t.Context(), &berthv1.CreateContainerRequest{
			Name: "c", Spec: &berthv1.ContainerSpec{Image: image, Process: &berthv1.ProcessSpec{Args: []string{"true"}}},
		})
		return err
	}
	named("snapshotter", snapshots, create())
	content.start()
	snapshots.start()
	testenv.Until(t, startLimit, "berthd finds the stores again", create)
}

// TestBerthdOnContainerd keeps berthd's images in a containerd, whose garbage collection runs whenever another of its
// clients removes an image with --sync.
func TestBerthdOnContainerd(t *testing.T) {
	testenv.NeedRoot(t)
	image := testenv.BusyboxImage(t, testenv.Registry(t))
	c := launchContainerd(t, "berth", "", "")
	d := newBerthd(t, "--content-address", c.address, "--snapshotter-address", c.address, "--snapshotter", "overlayfs")
	d.pull(t.Context(), image)
	collect := func() {
		t.Helper()
		const other = "example.com/other:test"
		c.mustRun("images", "import", imageArchive(t, other))
		c.mustRun("images", "rm", "--sync", other)
	}
	collect()
	if code := d.run(t.Context(), "first", image, "true"); code != 0 {
		t.Errorf("exit code %d after a collection", code)
	}
	d.Stop()
	collect()
	d.Start()
	if code := d.run(t.Context(), "second", image, "true"); code != 0 {
		t.Errorf("exit code %d after a restart", code)
	}
	d.remove(t.Context(), "first", "second")
	d.removeImage(t.Context(), image)
	collect()
	if left := c.mustRun("content", "ls", "-q"); left != "" {
		t.Errorf("blobs left without an image: %s", left)
	}
	if left := c.mustRun("snapshots", "--snapshotter", "overlayfs", "ls"); strings.Count(left, "\n") > 1 {
		t.Errorf("layers left without an image: %s", left)
	}
}
