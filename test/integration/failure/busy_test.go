package failure_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

const rounds = 6

// killWithin kills berthd at a random instant.
func (d *daemon) killWithin(window time.Duration) {
	time.Sleep(rand.N(window)) // not a wait for anything: the instant is to be random
	d.Kill()
}

func TestDaemonKilledDuringPulls(t *testing.T) {
	testenv.NeedRoot(t)
	registry := testenv.Registry(t)
	image := pushBusybox(t, registry, 6<<20, 6<<20, 6<<20)
	d := startDaemon(t)
	done := 0
	for round := range rounds {
		result := make(chan error, 1)
		go func() { result <- d.pull(image) }()
		d.killWithin(600 * time.Millisecond)
		if err := <-result; err == nil {
			done++
		}
		d.start()
		checkContent(t, d)
		response, err := d.images().ListImages(d.t.Context(), &berthv1.ListImagesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if done > 0 && len(response.Images) == 0 {
			t.Fatalf("round %d: the pull was answered, but there is no image", round)
		}
		if len(response.Images) > 0 {
			removeImage(t, d, image)
			done = 0
		}
	}
	if err := d.pull(image); err != nil {
		t.Fatal(err)
	}
	c := d.run("whole", shell(image, "wc -c /random-0 /random-1 /random-2"))
	if state := d.awaitExit(c.Id); state.ExitCode != 0 {
		t.Errorf("state %v", state)
	}
	if log := d.logs(c.Id); strings.Count(log, "6291456") != 3 {
		t.Errorf("the image has %s", log)
	}
	if _, err := d.containers().RemoveContainer(d.t.Context(), &berthv1.RemoveContainerRequest{Container: c.Id}); err != nil {
		t.Fatal(err)
	}
	removeImage(t, d, image)
	d.Stop() // waits for directories that are being removed
	d.noneOf(func() []string { return stored(t, d) })
}

func removeImage(t testing.TB, d *daemon, image string) {
	t.Helper()
	if _, err := d.images().RemoveImage(d.t.Context(), &berthv1.RemoveImageRequest{Image: image, Force: true}); err != nil {
		t.Fatalf("remove %q: %v", image, err)
	}
}

// checkContent checks that every blob is whole.
func checkContent(t testing.TB, d *daemon) {
	t.Helper()
	for _, path := range globs(t, filepath.Join(d.Root, "content/blobs/sha256/*")) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := digest.FromBytes(content).Encoded(); got != filepath.Base(path) {
			t.Errorf("blob %s has %d bytes with the digest %s", filepath.Base(path), len(content), got)
		}
	}
}

// stored lists blobs and snapshots.
func stored(t testing.TB, d *daemon) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"content/blobs/sha256/*", "content/ingests/*/*", "snapshots/snapshots/*"} {
		found = append(found, globs(t, filepath.Join(d.Root, pattern))...)
	}
	return found
}

// worker makes containers, runs them and removes them, and knows what was answered.
type worker struct {
	exists map[string]bool // by name, as far as it was answered
	unsure map[string]bool // the call that would change it was not answered
	wrong  []error         // answers of a berthd that was there
}

// The ways of a container that a worker makes, one after the other.
const (
	staying  = iota // runs on, with a published port and volumes
	exiting         // exits by itself
	stopping        // has execs, is paused and resumed, and stopped
	leaving         // is removed while it runs
	ways
)

// Exit codes by which the ends of containers are told apart.
const exitingCode, stoppingCode, execCode = 3, 5, 4

func (w *worker) spec(way int, image string) *berthv1.ContainerSpec {
	switch way {
	case exiting:
		return shell(image, fmt.Sprintf("echo it runs; exit %d", exitingCode))
	case stopping:
		return shell(image, fmt.Sprintf("trap 'exit %d' TERM; echo it runs; while :; do sleep 0.02; done", stoppingCode))
	}
	spec := shell(image, "echo it runs; exec sleep 1000")
	volume := berthv1.MountType_MOUNT_TYPE_VOLUME
	spec.Mounts = []*berthv1.Mount{{Type: volume, Source: "shared", Target: "/shared"}, {Type: volume, Target: "/own"}}
	spec.Network = &berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{{HostIp: "127.0.0.1", ContainerPort: 80}}}
	return spec
}

// ended tells that a call was cut off because berthd was killed. Any other failure is wrong.
func (w *worker) ended(what string, err error) bool {
	if err != nil && status.Code(err) != codes.Unavailable {
		w.wrong = append(w.wrong, fmt.Errorf("%s: %w", what, err))
	}
	return err != nil
}

func (w *worker) live(d *daemon, prefix, image string) {
	for i := 0; ; i++ {
		name, way := fmt.Sprintf("%s-%d", prefix, i), i%ways
		w.unsure[name] = true
		_, err := d.containers().CreateContainer(d.t.Context(), &berthv1.CreateContainerRequest{Name: name, Spec: w.spec(way, image)})
		if w.ended("create", err) {
			return
		}
		w.exists[name], w.unsure[name] = true, false
		_, err = d.containers().StartContainer(d.t.Context(), &berthv1.StartContainerRequest{Container: name})
		if w.ended("start", err) || w.ended("life", w.goOn(d, name, way)) {
			return
		}
	}
}

// goOn leads a container that runs along its way.
func (w *worker) goOn(d *daemon, name string, way int) error {
	ctx := d.t.Context()
	switch way {
	case exiting:
		answer, err := d.containers().WaitContainer(ctx, &berthv1.WaitContainerRequest{Container: name})
		if err == nil && answer.GetExitCode() != exitingCode {
			err = fmt.Errorf("%s exited with %d", name, answer.GetExitCode())
		}
		return err
	case stopping:
		if err := w.exec(d, name); err != nil {
			return err
		}
		_, err := d.containers().PauseContainer(ctx, &berthv1.PauseContainerRequest{Container: name})
		if err == nil {
			_, err = d.containers().ResumeContainer(ctx, &berthv1.ResumeContainerRequest{Container: name})
		}
		if err == nil {
			_, err = d.containers().StopContainer(ctx, &berthv1.StopContainerRequest{Container: name})
		}
		return err
	case leaving:
		w.unsure[name] = true
		_, err := d.containers().RemoveContainer(ctx, &berthv1.RemoveContainerRequest{Container: name, Force: true, Volumes: true})
		if err == nil {
			w.exists[name], w.unsure[name] = false, false
		}
		return err
	}
	return nil
}

func (w *worker) exec(d *daemon, name string) error {
	stream, err := d.containers().ExecContainer(d.t.Context())
	if err != nil {
		return err
	}
	err = stream.Send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Start{Start: &berthv1.ExecStart{
		Container: name, Process: &berthv1.ProcessSpec{Args: []string{"sh", "-c", fmt.Sprintf("exit %d", execCode)}},
	}}})
	for err == nil || errors.Is(err, io.EOF) { // of Send, EOF says that Recv has the reason
		var response *berthv1.ExecContainerResponse
		if response, err = stream.Recv(); response.GetExit() != nil {
			if code := response.GetExit().GetCode(); code != execCode {
				return fmt.Errorf("an exec in %s exited with %d", name, code)
			}
			return nil
		}
	}
	return err
}

func TestDaemonKilledWhileContainersComeAndGo(t *testing.T) {
	d, image := startWithImage(t)
	layers := len(globs(t, filepath.Join(d.Root, "snapshots/snapshots/*")))
	for round := range rounds {
		var workers []*worker
		var group sync.WaitGroup
		for i := range 3 {
			w := &worker{exists: map[string]bool{}, unsure: map[string]bool{}}
			workers = append(workers, w)
			group.Go(func() { w.live(d, fmt.Sprintf("r%d-w%d", round, i), image) })
		}
		d.killWithin(800 * time.Millisecond)
		group.Wait()
		d.start()
		there := map[string]*berthv1.Container{}
		for _, c := range d.list() {
			there[c.Name] = c
			checkContainer(t, d, c)
		}
		for _, w := range workers {
			for _, err := range w.wrong {
				t.Error(err)
			}
			for name, exists := range w.exists {
				if _, found := there[name]; !w.unsure[name] && found != exists {
					t.Errorf("%s exists: %v, was answered: %v", name, found, exists)
				}
			}
		}
		removeAll(t, d)
		checkVolumes(t, d)
		d.noneOf(d.inUse)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	d.Stop() // waits for directories that are being removed
	if now := globs(t, filepath.Join(d.Root, "snapshots/snapshots/*")); len(now) != layers {
		t.Errorf("%d snapshots, without containers there were %d", len(now), layers)
	}
}

// wayOf is the way of a container that a worker has named.
func wayOf(name string) int {
	number, _ := strconv.Atoi(name[strings.LastIndex(name, "-")+1:])
	return number % ways
}

// checkContainer checks that a container is what it says, and that its life can go on from there.
func checkContainer(t testing.TB, d *daemon, c *berthv1.Container) {
	t.Helper()
	switch c.State.Status {
	case paused:
		if _, err := d.containers().ResumeContainer(d.t.Context(), &berthv1.ResumeContainerRequest{Container: c.Id}); err != nil {
			t.Errorf("resume of %s: %v", c.Name, err)
		}
	case running:
		if output, code := d.exec(c.Id, "echo inside"); output != "inside\n" || code != 0 {
			t.Errorf("exec in %s: %q, %d", c.Name, output, code)
		}
	case created, exited:
		// Its shim goes on without berthd, so that no exit code is lost.
		want := map[int]int32{exiting: exitingCode, stopping: stoppingCode, leaving: 128 + int32(syscall.SIGKILL)}
		if code := c.State.ExitCode; c.State.Status == exited && code != want[wayOf(c.Name)] {
			t.Errorf("%s has exited with %d", c.Name, code)
		}
		if _, err := d.containers().StartContainer(d.t.Context(), &berthv1.StartContainerRequest{Container: c.Id}); err != nil {
			t.Errorf("start of %s, which was %v: %v", c.Name, c.State, err)
		}
	default:
		t.Errorf("%s is %v", c.Name, c.State)
	}
}

func removeAll(t testing.TB, d *daemon) {
	t.Helper()
	for _, c := range d.list() {
		if _, err := d.containers().RemoveContainer(t.Context(), &berthv1.RemoveContainerRequest{Container: c.Id, Force: true, Volumes: true}); err != nil {
			t.Errorf("remove %s: %v", c.Name, err)
		}
	}
}

// checkVolumes checks that, without containers, no anonymous volume is there and the others are used by nobody.
func checkVolumes(t testing.TB, d *daemon) {
	t.Helper()
	volumes := berthv1.NewVolumesServiceClient(d.conn)
	list, err := volumes.ListVolumes(t.Context(), &berthv1.ListVolumesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, volume := range list.GetVolumes() {
		if volume.GetName() != "shared" {
			t.Errorf("volume %s is left", volume.GetName())
		}
		if _, err := volumes.RemoveVolume(t.Context(), &berthv1.RemoveVolumeRequest{Name: volume.GetName()}); err != nil {
			t.Error(err)
		}
	}
}
