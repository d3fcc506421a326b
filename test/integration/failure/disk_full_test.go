package failure_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// startOnSmallDisk starts a berthd whose root directory is a file system of a size.
func startOnSmallDisk(t *testing.T, size int) *daemon {
	t.Helper()
	root := testenv.ShortDir(t)
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := startDaemon(t, "--root", root)
	d.Root = root
	return d
}

func TestPullOntoAFullDisk(t *testing.T) {
	testenv.NeedRoot(t)
	image := pushBusybox(t, testenv.Registry(t), 24<<20)
	d := startOnSmallDisk(t, 16<<20)
	root := d.Root
	err := d.pull(image)
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("the pull ended with %v", err)
	}
	if left := directories(t, filepath.Join(root, "content", "ingests", "berth")); len(left) != 0 {
		t.Errorf("the full disk still has what was fetched: %v", left)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d", 128<<20)); err != nil {
		t.Fatal(err)
	}
	if err := d.pull(image); err != nil {
		t.Errorf("with more room: %v", err)
	}
	removeImage(t, d, image)
	d.Stop()
	d.noneOf(func() []string { return stored(t, d) })
}

// free is how many bytes can be written below a directory.
func free(t testing.TB, dir string) uint64 {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Bavail * uint64(stat.Bsize)
}

// A container that has filled the disk can be stopped, killed and removed, which gives the room back, and what it did is kept
// over a restart of berthd.
func TestContainersOnAFullDiskEndAndGiveItsRoomBack(t *testing.T) {
	testenv.NeedRoot(t)
	image := pushBusybox(t, testenv.Registry(t))
	d := startOnSmallDisk(t, 48<<20)
	if err := d.pull(image); err != nil {
		t.Fatal(err)
	}
	volumes, networks := berthv1.NewVolumesServiceClient(d.conn), berthv1.NewNetworksServiceClient(d.conn)
	if _, err := volumes.CreateVolume(t.Context(), &berthv1.CreateVolumeRequest{Name: "data"}); err != nil {
		t.Fatal(err)
	}
	if _, err := networks.CreateNetwork(t.Context(), &berthv1.CreateNetworkRequest{Config: &berthv1.NetworkConfig{Name: "private"}}); err != nil {
		t.Fatal(err)
	}
	handling := `trap "exit 7" TERM; echo ready; while :; do sleep 0.02; done`
	stopped, killed, removed := d.run("stopped", shell(image, handling)), d.run("killed", shell(image, handling)), d.run("removed", shell(image, handling))
	filler := shell(image, "dd if=/dev/zero of=/big bs=64k; dd if=/dev/zero of=/bits bs=1; echo full; exec sleep 1000")
	filler.Mounts = []*berthv1.Mount{{Type: berthv1.MountType_MOUNT_TYPE_VOLUME, Target: "/anonymous"}}
	filler.Log = &berthv1.LogSpec{Driver: "none"}
	full := d.run("filler", filler)
	testenv.Until(t, limit, "the disk is full", func() error {
		if left := free(t, d.Root); left > 0 {
			return fmt.Errorf("%d bytes are free", left)
		}
		return nil
	})
	if err := within(t, limit, "stop", func(ctx context.Context) error { return d.stop(ctx, "stopped") }); err != nil {
		t.Error(err)
	}
	err := within(t, limit, "kill", func(ctx context.Context) error {
		_, err := d.containers().KillContainer(ctx, &berthv1.KillContainerRequest{Container: "killed"})
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := within(t, limit, "rm -f", func(ctx context.Context) error { return d.rm(ctx, "removed") }); err != nil {
		t.Error(err)
	}
	for _, c := range []*berthv1.Container{stopped, killed, removed} {
		if alive(c.State.Pid) {
			t.Errorf("process %d of %s is there", c.State.Pid, c.Name)
		}
	}
	if left := free(t, d.Root); left > 1<<20 {
		t.Errorf("%d bytes are free before the container that fills the disk is removed", left)
	}
	d.Kill()
	d.start()
	for name, code := range map[string]int32{"stopped": 7, "killed": 137} {
		if state := d.inspect(name).State; state.Status != exited || state.ExitCode != code {
			t.Errorf("%s is %v, want exited with %d", name, state, code)
		}
	}
	if _, err := berthv1.NewVolumesServiceClient(d.conn).RemoveVolume(t.Context(), &berthv1.RemoveVolumeRequest{Name: "data"}); err != nil {
		t.Errorf("volume rm: %v", err)
	}
	if _, err := berthv1.NewNetworksServiceClient(d.conn).RemoveNetwork(t.Context(), &berthv1.RemoveNetworkRequest{Network: "private"}); err != nil {
		t.Errorf("network rm: %v", err)
	}
	err = within(t, limit, "rm -f", func(ctx context.Context) error {
		_, err := d.containers().RemoveContainer(ctx, &berthv1.RemoveContainerRequest{Container: "filler", Force: true, Volumes: true})
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if alive(full.State.Pid) {
		t.Errorf("process %d is there", full.State.Pid)
	}
	testenv.Until(t, limit, "there is room again", func() error {
		if left := free(t, d.Root); left < 16<<20 {
			return fmt.Errorf("%d bytes are free", left)
		}
		return nil
	})
	if state := d.awaitExit(d.run("after", shell(image, "exit 5")).Id); state.ExitCode != 5 {
		t.Errorf("a container afterwards: %v", state)
	}
}

// fill writes a file below dir until nothing fits any more.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// An image gives its room back when it is removed, although that has to be written down on the full disk.
func TestImagesOnAFullDiskAreRemoved(t *testing.T) {
	testenv.NeedRoot(t)
	registry := testenv.Registry(t)
	image := pushBusybox(t, registry, 8<<20)
	d := startOnSmallDisk(t, 64<<20)
	if err := d.pull(image); err != nil {
		t.Fatal(err)
	}
	// Each further name makes the image's record larger, and the database with it.
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("name%d:latest", i))
		if _, err := d.images().TagImage(t.Context(), &berthv1.TagImageRequest{Source: image, Target: names[i]}); err != nil {
			t.Fatal(err)
		}
		fill(t, filepath.Join(d.Root, "filler"))
		if left := free(t, d.Root); left > 0 {
			t.Fatalf("%d bytes are free", left)
		}
		if i%2 == 1 {
			removeImage(t, d, names[i-1])
		}
		if err := os.Remove(filepath.Join(d.Root, "filler")); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, filepath.Join(d.Root, "filler"))
	for i := 1; i < len(names); i += 2 {
		removeImage(t, d, names[i])
	}
	removeImage(t, d, image)
	if left := free(t, d.Root); left < 12<<20 { // the blob and what it unpacked to
		t.Errorf("%d bytes are free", left)
	}
	if err := d.pull(image); err != nil {
		t.Fatal(err)
	}
	removeImage(t, d, image)
	if err := os.Remove(filepath.Join(d.Root, "filler")); err != nil {
		t.Fatal(err)
	}
	d.Stop()
	d.noneOf(func() []string { return stored(t, d) })
}
