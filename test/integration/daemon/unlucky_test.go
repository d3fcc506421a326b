package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// startSnapshotter runs a snapshotter in a process of its own until the test has ended.
func startSnapshotter(t *testing.T) (process *os.Process, address string) {
	t.Helper()
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	socket := filepath.Join(dir, "s.sock")
	store := exec.Command(testenv.Binary(t, "berth-snapshotter"), "--root", filepath.Join(dir, "snapshots"), "--address", socket)
	if err := store.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = store.Process.Kill(), store.Wait() })
	untilExists(t, socket)
	return store.Process, "unix://" + socket
}

// A store in a process of its own that is gone is named, or else its users look for the fault in berthd.
func TestLostStoreIsNamed(t *testing.T) {
	store, address := startSnapshotter(t)
	w := newWorld(t, "--snapshotter-address", address)
	if err := store.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = store.Wait()
	_, err := w.containers.CreateContainer(w.ctx(), &berthv1.CreateContainerRequest{Spec: w.spec("true")})
	wantCode(t, err, codes.Unavailable, "snapshotter at", address)
	if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "transport") {
		t.Errorf("not one sentence: %v", err)
	}
}

// A store that is stopped accepts calls and answers none: they end, and the container can be removed when it goes on.
func TestStoppedStoreIsNotWaitedForWithoutEnd(t *testing.T) {
	store, address := startSnapshotter(t)
	w := newWorld(t, "--snapshotter-address", address)
	id := w.run("", w.sleeper())
	if err := store.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := sync.OnceFunc(func() { _ = store.Signal(syscall.SIGCONT) })
	defer goOn()
	ctx, cancel := context.WithTimeout(w.ctx(), time.Minute)
	defer cancel()
	_, err := w.containers.RemoveContainer(ctx, &berthv1.RemoveContainerRequest{Container: id, Force: true})
	wantCode(t, err, codes.Unavailable, "snapshotter at", address, "does not answer")
	goOn()
	w.remove(id)
}

// busyRecord keeps a container's directory from being removed until the function that it returns is called.
func (w *world) busyRecord(id string) (release func()) {
	w.t.Helper()
	dir := filepath.Join(w.Root, "containers", id, "busy")
	if err := errors.Join(os.Mkdir(dir, 0o700), syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k")); err != nil {
		w.t.Fatal(err)
	}
	release = func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }
	w.t.Cleanup(release)
	return release
}

// A client that waits for a removal is told when that fails, and the removal is tried again.
func TestRemovalThatFailsEndsTheWaitForIt(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("sh", "-c", "read line; exit 5")
	spec.AutoRemove, spec.Process.Stdin = true, true
	id := w.create("", spec)
	waited := make(chan error, 1)
	go func() {
		_, err := w.containers.WaitContainer(w.ctx(), &berthv1.WaitContainerRequest{Container: id, Condition: berthv1.WaitCondition_WAIT_CONDITION_REMOVED})
		waited <- err
	}()
	client := w.attach(id)
	w.start(id)
	release := w.busyRecord(id)
	client.write("\n")
	if code := client.exit(); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
	wantCode(t, <-waited, codes.FailedPrecondition, "can't be removed")
	release()
	testenv.Until(t, 30*time.Second, "the container is removed after all", func() error {
		_, err := w.containers.InspectContainer(w.ctx(), &berthv1.InspectContainerRequest{Container: id})
		if err == nil {
			return errors.New("it is there")
		}
		wantCode(t, err, codes.NotFound)
		return nil
	})
}

// volumesOf returns the names of the volumes that there are.
func (w *world) volumes() []string {
	w.t.Helper()
	list, err := berthv1.NewVolumesServiceClient(w.Dial()).ListVolumes(w.ctx(), &berthv1.ListVolumesRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, volume := range list.GetVolumes() {
		names = append(names, volume.GetName())
	}
	return names
}

// rm -v that berthd's end has cut off is finished with the volumes, rm without them.
func TestInterruptedRemovalTakesItsVolumes(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("true")
	spec.Mounts = []*berthv1.Mount{{Type: berthv1.MountType_MOUNT_TYPE_VOLUME, Target: "/anonymous"}}
	with, without := w.run("with", spec), w.run("without", spec)
	w.wait(with)
	w.wait(without)
	kept := w.inspect(without).GetMounts()[0].GetVolume()
	w.Kill()
	for id, mark := range map[string]string{with: `"step":"remove","volumes":true,`, without: `"step":"remove",`} {
		path := filepath.Join(w.Root, "containers", id, "state.json")
		content, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(strings.Replace(string(content), "{", "{"+mark, 1)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.Start()
	testenv.Until(t, 10*time.Second, "both are removed", func() error {
		if entries, err := os.ReadDir(w.Root + "/containers"); err != nil || len(entries) > 0 {
			return errors.Join(err, fmt.Errorf("there are %v", entries))
		}
		return nil
	})
	if names := w.volumes(); len(names) != 1 || names[0] != kept {
		t.Errorf("the volumes are %v, want %s", names, kept)
	}
	volumes := berthv1.NewVolumesServiceClient(w.Dial())
	if _, err := volumes.RemoveVolume(w.ctx(), &berthv1.RemoveVolumeRequest{Name: kept}); err != nil {
		t.Error(err)
	}
}

// A volume is not in use by a container whose directory a power failure has taken.
func TestVolumeOfAContainerThatIsGoneIsFree(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("true")
	spec.Mounts = []*berthv1.Mount{{Type: berthv1.MountType_MOUNT_TYPE_VOLUME, Source: "data", Target: "/data"}}
	id := w.create("lost", spec)
	w.Kill()
	if err := os.RemoveAll(filepath.Join(w.Root, "containers", id)); err != nil {
		t.Fatal(err)
	}
	w.Start()
	if _, err := berthv1.NewVolumesServiceClient(w.Dial()).RemoveVolume(w.ctx(), &berthv1.RemoveVolumeRequest{Name: "data"}); err != nil {
		t.Error(err)
	}
}

// A container that a client has asked for and will never hear of is not made.
func TestClientThatLeavesGetsNoContainer(t *testing.T) {
	store, address := startSnapshotter(t)
	w := newWorld(t, "--snapshotter-address", address)
	if err := store.Signal(syscall.SIGSTOP); err != nil { // so that the call can't end
		t.Fatal(err)
	}
	untilStopped(t, store.Pid)
	ctx, leave := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := w.containers.CreateContainer(ctx, &berthv1.CreateContainerRequest{Spec: w.spec("true")})
		answered <- err
	}()
	records := filepath.Join(w.Root, "containers")
	testenv.Until(t, 20*time.Second, "the container is being made", func() error {
		if entries, err := os.ReadDir(records); err != nil || len(entries) == 0 {
			return errors.Join(err, fmt.Errorf("there are %v", entries))
		}
		return nil
	})
	leave()
	wantCode(t, <-answered, codes.Canceled)
	if err := store.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, 20*time.Second, "the container is given up", func() error {
		if entries, err := os.ReadDir(records); err != nil || len(entries) > 0 {
			return errors.Join(err, fmt.Errorf("there are %v", entries))
		}
		return nil
	})
}

// untilStopped waits until no thread of a process runs any more: on a busy host one may go on for a while after SIGSTOP.
func untilStopped(t *testing.T, pid int) {
	t.Helper()
	testenv.Until(t, 20*time.Second, "all threads are stopped", func() error {
		states, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(states) == 0 {
			return errors.Join(err, errors.New("it has none"))
		}
		for _, path := range states {
			content, err := os.ReadFile(path)
			if _, rest, found := strings.Cut(string(content), ") "); err != nil || !found || !strings.HasPrefix(rest, "T") {
				return errors.Join(err, fmt.Errorf("%s: %s", path, content))
			}
		}
		return nil
	})
}

// A restart that fails before it stops the container leaves --rm in force.
func TestRestartThatFailsKeepsAutoRemove(t *testing.T) {
	w := newWorld(t)
	spec := w.sleeper()
	spec.AutoRemove = true
	id := w.run("passing", spec)
	w.untilLogged(id, "ready")
	_, err := w.containers.RestartContainer(w.ctx(), &berthv1.RestartContainerRequest{Container: id, Signal: "SIGNOPE"})
	wantCode(t, err, codes.InvalidArgument, "SIGNOPE")
	if _, err := w.containers.StopContainer(w.ctx(), &berthv1.StopContainerRequest{Container: id}); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, 10*time.Second, "the container is removed", func() error {
		_, err := w.containers.InspectContainer(w.ctx(), &berthv1.InspectContainerRequest{Container: id})
		if err == nil {
			return errors.New("it is there")
		}
		wantCode(t, err, codes.NotFound)
		return nil
	})
}
