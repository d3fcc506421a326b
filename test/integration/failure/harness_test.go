// Package failure_test kills berthd, its shims and its containers at bad moments, and looks at what is left on the host.
package failure_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// limit is how long anything may take that should take a moment.
const limit = 30 * time.Second

// daemon is a berthd that is killed and started again. That nothing is left when it ends, testenv checks.
type daemon struct {
	*testenv.Daemon
	t    testing.TB
	conn *grpc.ClientConn
}

func startDaemon(t testing.TB, args ...string) *daemon {
	t.Helper()
	d := &daemon{Daemon: testenv.StartDaemon(t, args...), t: t}
	d.conn = d.Dial()
	return d
}

// start starts berthd again. It answers when it has dealt with what the one before has left.
func (d *daemon) start() {
	d.t.Helper()
	d.Start()
	d.conn = d.Dial() // the connection before may still wait before it is tried again
}

func (d *daemon) containers() berthv1.ContainersServiceClient {
	return berthv1.NewContainersServiceClient(d.conn)
}

func (d *daemon) images() berthv1.ImagesServiceClient { return berthv1.NewImagesServiceClient(d.conn) }

func (d *daemon) list() []*berthv1.Container {
	d.t.Helper()
	response, err := d.containers().ListContainers(d.t.Context(), &berthv1.ListContainersRequest{All: true})
	if err != nil {
		d.t.Fatalf("cannot list containers: %v", err)
	}
	return response.GetContainers()
}

// parting is how long a shim may take to end after its container was removed.
const parting = 3 * time.Second

// noneOf fails the test if something is left behind, and goes on being left.
func (d *daemon) noneOf(look func() []string) {
	d.t.Helper()
	var found []string
	for deadline := time.Now().Add(testenv.Patience(parting)); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if found = look(); len(found) == 0 {
			return
		}
	}
	d.t.Errorf("left behind:\n\t%s", strings.Join(found, "\n\t"))
}

// inUse lists what there may only be while there are containers.
func (d *daemon) inUse() []string {
	var found []string
	for _, dir := range []string{"bundles", "netns"} {
		for _, name := range entries(d.t, filepath.Join(d.State, dir)) {
			found = append(found, "file "+filepath.Join(dir, name))
		}
	}
	for _, id := range entries(d.t, filepath.Join(d.Root, "containers")) {
		found = append(found, "record of container "+id)
	}
	berthd := fmt.Sprintf("process %d:", d.Pid())
	for _, trace := range d.Traces() {
		kind, rest, _ := strings.Cut(trace, " ")
		switch {
		case kind == "mount", kind == "process" && !strings.HasPrefix(trace, berthd):
			found = append(found, trace)
		case kind == "cgroup": // the parent of all containers' may stay
			found = append(found, directories(d.t, rest)...)
		}
	}
	return append(found, d.addresses()...)
}

// addresses lists the files of addresses that are in use.
func (d *daemon) addresses() []string {
	var found []string
	err := filepath.WalkDir(d.State, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && strings.Contains(path, "/addresses/") && strings.HasPrefix(entry.Name(), "10.") {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return found
}

func entries(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range list {
		names = append(names, entry.Name())
	}
	return names
}

func directories(t testing.TB, dir string) []string {
	t.Helper()
	var found []string
	for _, path := range globs(t, filepath.Join(dir, "*")) {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			found = append(found, "cgroup "+path)
		}
	}
	return found
}

func globs(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
