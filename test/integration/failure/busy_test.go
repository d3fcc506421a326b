package failure_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

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
}

func (w *worker) live(d *daemon, prefix, image string) {
	for i := 0; ; i++ {
		name := fmt.Sprintf("%s-%d", prefix, i)
		spec := shell(image, "echo it runs; sleep 1000")
		w.unsure[name] = true
		_, err := d.containers().CreateContainer(d.t.Context(), &berthv1.CreateContainerRequest{Name: name, Spec: spec})
		if err != nil {
			return
		}
		w.exists[name], w.unsure[name] = true, false
		if _, err := d.containers().StartContainer(d.t.Context(), &berthv1.StartContainerRequest{Container: name}); err != nil {
			return
		}
		if i%2 == 0 {
			continue
		}
		w.unsure[name] = true
		if _, err := d.containers().RemoveContainer(d.t.Context(), &berthv1.RemoveContainerRequest{Container: name, Force: true}); err != nil {
			return
		}
		w.exists[name], w.unsure[name] = false, false
	}
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
			for name, exists := range w.exists {
				if _, found := there[name]; !w.unsure[name] && found != exists {
					t.Errorf("%s exists: %v, was answered: %v", name, found, exists)
				}
			}
		}
		removeAll(t, d)
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

// checkContainer checks that a container is what it says, and that its life can go on from there.
func checkContainer(t testing.TB, d *daemon, c *berthv1.Container) {
	t.Helper()
	switch c.State.Status {
	case running:
		if output, code := d.exec(c.Id, "echo inside"); output != "inside\n" || code != 0 {
			t.Errorf("exec in %s: %q, %d", c.Name, output, code)
		}
	case created, exited:
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
		if _, err := d.containers().RemoveContainer(t.Context(), &berthv1.RemoveContainerRequest{Container: c.Id, Force: true}); err != nil {
			t.Errorf("remove %s: %v", c.Name, err)
		}
	}
}
