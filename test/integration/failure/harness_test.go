// Package failure_test kills berthd, its shims and its containers at bad moments, and looks at what is left on the host.
package failure_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// limit is how long anything may take that should take a moment.
const limit = 30 * time.Second

// daemon is a berthd with directories, a bridge and an nftables table of its own.
type daemon struct {
	t        testing.TB
	dir      string // holds root, state and socket
	bridge   string
	table    string
	args     []string
	cmd      *exec.Cmd
	conn     *grpc.ClientConn
	lost     context.Context // of the process that runs: what waits for it ends with it
	loose    context.CancelFunc
	mu       sync.Mutex
	ids      []string // of all containers that there have been
	finished bool
}

// startDaemon starts a berthd. At the end of the test it is made to remove everything, and nothing may be left.
func startDaemon(t testing.TB, more ...string) *daemon {
	t.Helper()
	testenv.NeedRoot(t)
	return startDaemonIn(t, testenv.ShortDir(t), more...)
}

func startDaemonIn(t testing.TB, dir string, more ...string) *daemon {
	t.Helper()
	unique := strings.ToLower(rand.Text()[:8])
	d := &daemon{t: t, dir: dir, bridge: "bf" + unique, table: "berth-" + unique}
	subnet := fmt.Sprintf("10.%d.%d.0/24", 150+int(unique[0])%100, int(unique[1]))
	d.args = append([]string{
		"--root", d.path("root"), "--state", d.path("state"), "--address", "unix://" + d.path("sock"),
		"--bridge-name", d.bridge, "--bridge-subnet", subnet, "--nft-table", d.table,
	}, more...)
	conn, err := grpc.NewClient("unix://"+d.path("sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	d.conn = conn
	t.Cleanup(d.finish)
	d.start()
	return d
}

func (d *daemon) path(name string) string { return filepath.Join(d.dir, name) }

func (d *daemon) containers() berthv1.ContainersServiceClient {
	return berthv1.NewContainersServiceClient(d.conn)
}

func (d *daemon) images() berthv1.ImagesServiceClient { return berthv1.NewImagesServiceClient(d.conn) }

// start starts the process and waits until it answers, which is after it has dealt with what an earlier one left.
func (d *daemon) start() {
	d.t.Helper()
	d.cmd = exec.Command(testenv.Binary(d.t, "berthd"), d.args...)
	d.cmd.Stderr = &prefixed{t: d.t}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also if the test itself is killed
	d.lost, d.loose = context.WithCancel(context.Background())
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	testenv.Until(d.t, limit, "berthd answers", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		d.conn.ResetConnectBackoff()
		_, err := berthv1.NewSystemServiceClient(d.conn).GetVersion(ctx, &berthv1.GetVersionRequest{})
		if status := d.exited(); status != nil {
			d.t.Fatalf("berthd ended: %v", status)
		}
		return err
	})
}

// exited returns how the process has ended, or nil.
func (d *daemon) exited() error {
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(d.cmd.Process.Pid, &status, syscall.WNOHANG, nil)
	if err != nil || pid == 0 {
		return nil
	}
	return fmt.Errorf("status %d, signal %v", status.ExitStatus(), status.Signal())
}

// kill is kill -9.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	d.loose()
	d.cmd = nil
}

// stop ends berthd as an init system does.
func (d *daemon) stop() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("berthd ended with %v", err)
	}
	d.loose()
	d.cmd = nil
}

// finish removes what the test has left in the daemon, ends it, and checks that the host is as it was.
func (d *daemon) finish() {
	if d.finished {
		return
	}
	d.finished = true
	if d.cmd == nil {
		d.start()
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for _, c := range d.list(ctx) {
		_, err := d.containers().RemoveContainer(ctx, &berthv1.RemoveContainerRequest{Container: c.Id, Force: true, Volumes: true})
		if err != nil {
			d.t.Errorf("cannot remove container %s: %v", c.Id, err)
		}
	}
	d.noneOf(d.inUse)
	d.stop()
	_ = d.conn.Close()
	d.noneOf(d.leftOnHost)
}

// parting is how long a shim may take to end after its container was removed.
const parting = 3 * time.Second

// noneOf fails the test if something is left behind, and goes on being left.
func (d *daemon) noneOf(look func() []string) {
	d.t.Helper()
	var found []string
	for deadline := time.Now().Add(parting); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if found = look(); len(found) == 0 {
			return
		}
	}
	d.t.Errorf("left behind:\n\t%s", strings.Join(found, "\n\t"))
}

func (d *daemon) list(ctx context.Context) []*berthv1.Container {
	d.t.Helper()
	response, err := d.containers().ListContainers(ctx, &berthv1.ListContainersRequest{All: true})
	if err != nil {
		d.t.Errorf("cannot list containers: %v", err)
	}
	return response.GetContainers()
}

func (d *daemon) remember(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids = append(d.ids, id)
}

// inUse lists what there may only be while there are containers.
func (d *daemon) inUse() []string {
	var found []string
	for _, name := range []string{"bundles", "netns", "streams"} {
		for _, entry := range entries(d.t, d.path("state/"+name)) {
			found = append(found, "file state/"+name+"/"+entry)
		}
	}
	for _, entry := range entries(d.t, d.path("root/containers")) {
		found = append(found, "record of container "+entry)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, d.dir+"/state/") || strings.Contains(line, d.dir+"/root/") {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	return append(append(found, d.shims()...), d.traces()...)
}

// shims lists the processes whose command line names our directory, but for berthd itself.
func (d *daemon) shims() []string {
	var found []string
	for _, dir := range globs(d.t, "/proc/[0-9]*") {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || d.cmd != nil && pid == d.cmd.Process.Pid || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err == nil && bytes.Contains(line, []byte(d.dir+"/")) {
			found = append(found, fmt.Sprintf("process %d: %s", pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// traces lists interfaces, cgroups and processes of the containers that there have been.
func (d *daemon) traces() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var found []string
	named := func(text string) bool {
		return slices.ContainsFunc(d.ids, func(id string) bool { return strings.Contains(text, id) })
	}
	for _, link := range globs(d.t, "/sys/class/net/*") {
		if alias, err := os.ReadFile(filepath.Join(link, "ifalias")); err == nil && named(string(alias)) {
			found = append(found, "interface "+filepath.Base(link)+", "+strings.TrimSpace(string(alias)))
		}
	}
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && named(entry.Name()) {
			found = append(found, "cgroup "+path)
		}
		return nil // others come and go meanwhile
	})
	if err != nil {
		d.t.Error(err)
	}
	return found
}

// leftOnHost lists what there may not be after the daemon has ended without containers.
func (d *daemon) leftOnHost() []string {
	found := d.inUse()
	if _, err := os.Stat("/sys/class/net/" + d.bridge); err == nil {
		found = append(found, "interface "+d.bridge)
	}
	if nft, err := exec.LookPath("nft"); err == nil {
		tables, err := exec.Command(nft, "list", "tables").Output()
		if err != nil {
			d.t.Error(err)
		}
		if strings.Contains(string(tables), d.table) {
			found = append(found, "nftables table "+d.table)
		}
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

func globs(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// prefixed shows berthd's log with the test that it belongs to, if that fails.
type prefixed struct {
	t    testing.TB
	mu   sync.Mutex
	rest []byte
}

func (p *prefixed) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = append(p.rest, data...)
	for {
		line, rest, found := bytes.Cut(p.rest, []byte{'\n'})
		if !found {
			return len(data), nil
		}
		p.t.Logf("berthd: %s", line)
		p.rest = rest
	}
}
