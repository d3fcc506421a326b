package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	reflectapi "google.golang.org/grpc/reflection/grpc_reflection_v1"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// berthd works unchanged when its stores are processes of their own.
func TestStandAloneStores(t *testing.T) {
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	content, snapshots := filepath.Join(dir, "c.sock"), filepath.Join(dir, "s.sock")
	startStore(t, "berth-contentstore", filepath.Join(dir, "content"), content)
	startStore(t, "berth-snapshotter", filepath.Join(dir, "snapshots"), snapshots)
	w := newWorld(t, "--content-address", "unix://"+content, "--snapshotter-address", "unix://"+snapshots)
	id := w.run("", w.spec("sh", "-c", "echo hello >/file; cat /file; exit 2"))
	if code := w.wait(id); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	if logged := w.logs(id); logged != "hello\n" {
		t.Errorf("logged %q", logged)
	}
	info, err := w.system.GetInfo(w.ctx(), &berthv1.GetInfoRequest{})
	if err != nil || !strings.Contains(info.GetContentAddress(), content) || !strings.Contains(info.GetSnapshotterAddress(), snapshots) {
		t.Errorf("the info names the stores %q and %q, %v", info.GetContentAddress(), info.GetSnapshotterAddress(), err)
	}
	for _, own := range []string{"content", "snapshots"} {
		if _, err := os.Stat(filepath.Join(w.Root, own)); err == nil {
			t.Errorf("berthd has a %s directory of its own", own)
		}
	}
	w.remove(id)
	if _, err := w.images.RemoveImage(w.ctx(), &berthv1.RemoveImageRequest{Image: w.image}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "content", "blobs", "sha256", "*")); len(left) > 0 {
		t.Errorf("blobs are left after the image was removed: %v", left)
	}
}

func startStore(t *testing.T, program, root, socket string) {
	t.Helper()
	cmd := exec.Command(testenv.Binary(t, program), "--root", root, "--address", socket)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s did not end well: %v", program, err)
		}
	})
	testenv.Until(t, 10*time.Second, program+" listens", func() error {
		_, err := os.Stat(socket)
		return err
	})
}

func TestStoreThatIsNotThere(t *testing.T) {
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	said := testenv.DaemonFails(t, "--root", filepath.Join(dir, "r"), "--state", filepath.Join(dir, "s"), "--address", "unix://"+filepath.Join(dir, "b"),
		"--content-address", "unix:///nowhere/content.sock")
	if !strings.Contains(said, "cannot use the content store") || !strings.Contains(said, "/nowhere/content.sock") {
		t.Errorf("it said %q", said)
	}
}

func TestFlagsThatCanNotWork(t *testing.T) {
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	for text, args := range map[string][]string{
		"tcp://0.0.0.0:1": {"--address", "tcp://0.0.0.0:1"},
		"no-such-runtime": {"--runtime", "no-such-runtime"},
		"unexpected":      {"unexpected"},
		"--bridge-subnet": {"--bridge-subnet", "fd00::/64"},
		"flag provided":   {"--nonsense"},
		"not a socket":    {"--address", "unix://" + filepath.Join(dir, "r", "daemon-id")},
		`invalid --address "unix://` + dir + `/b": it is given twice`:                      {"--address", "unix://" + filepath.Join(dir, "b")},
		"a socket's path has at most 107 bytes":                                            {"--address", "unix:///" + strings.Repeat("x", 107)},
		`invalid --root "relative": want an absolute path`:                                 {"--root", "relative"},
		`invalid --state "` + filepath.Join(dir, "r") + `": it is --root too`:              {"--state", filepath.Join(dir, "r")},
		`invalid --group "nosuch": group: unknown group nosuch`:                            {"--group", "nosuch"},
		`invalid --snapshotter "foo": want overlay or native`:                              {"--snapshotter", "foo"},
		`invalid --cgroup-parent "../x": it may not contain the element ".."`:              {"--cgroup-parent", "../x"},
		`invalid --cgroup-parent "/": want the path of a cgroup`:                           {"--cgroup-parent", "/"},
		`invalid --nft-table "": want the name of a table`:                                 {"--nft-table", ""},
		`invalid --bridge-subnet "224.0.0.0/8": want unicast IPv4 addresses`:               {"--bridge-subnet", "224.0.0.0/8"},
		`invalid --insecure-registry "http://host": want a host or host:port`:              {"--insecure-registry", "http://host"},
		`invalid --cni-plugin-dir "/nowhere": stat /nowhere: no such file or directory`:    {"--cni-plugin-dir", "/nowhere"},
		`invalid --shim "no-such-shim": there is no such program beside berthd or in PATH`: {"--shim", "no-such-shim"},
		`invalid --init "no-such-init": there is no such program`:                          {"--init", "no-such-init"},
	} {
		base := []string{"--root", filepath.Join(dir, "r"), "--state", filepath.Join(dir, "s"), "--address", "unix://" + filepath.Join(dir, "b")}
		said := testenv.DaemonFails(t, append(base, args...)...)
		if !strings.Contains(said, text) {
			t.Errorf("with %q it said %q", args, said)
		}
		if lines := strings.Count(said, "\n"); lines != 1 {
			t.Errorf("with %q it said %d lines: %q", args, lines, said)
		}
	}
	if _, err := os.Stat("relative"); err == nil {
		t.Error("it has made a directory of the relative path")
	}
}

// The layout of berthd's own snapshotter is the one that was asked for.
func TestNativeSnapshotter(t *testing.T) {
	w := newWorld(t, "--snapshotter", "native")
	id := w.run("", w.spec("sh", "-c", "echo hello >/file; cat /file"))
	if code := w.wait(id); code != 0 {
		t.Errorf("exit code %d", code)
	}
	info, err := w.system.GetInfo(w.ctx(), &berthv1.GetInfoRequest{})
	if err != nil || info.GetSnapshotter() != "native" {
		t.Errorf("the info names the snapshotter %q, %v", info.GetSnapshotter(), err)
	}
	w.remove(id)
}

func TestVersionFlag(t *testing.T) {
	output, err := exec.Command(testenv.Binary(t, "berthd"), "--version").Output()
	if err != nil || !strings.HasPrefix(string(output), "berthd version ") {
		t.Errorf("--version printed %q, %v", output, err)
	}
}

func TestSocketIsForRootAndItsGroup(t *testing.T) {
	second := filepath.Join(testenv.ShortDir(t), "second")
	w := newWorld(t, "--group", "daemon", "--address", "unix://"+second)
	for _, path := range []string{strings.TrimPrefix(w.Host, "unix://"), second} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		owner := info.Sys().(*syscall.Stat_t)
		if info.Mode().Perm() != 0o660 || owner.Uid != 0 || owner.Gid != 1 { // Debian's group daemon
			t.Errorf("%s has mode %v, owner %d, group %d", path, info.Mode().Perm(), owner.Uid, owner.Gid)
		}
	}
	conn, err := grpc.NewClient("unix://"+second, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := berthv1.NewSystemServiceClient(conn).GetVersion(w.ctx(), &berthv1.GetVersionRequest{}); err != nil {
		t.Errorf("the second socket does not answer: %v", err)
	}
}

func TestWhatIsNotThereSaysSo(t *testing.T) {
	w := newWorld(t)
	_, err := w.containers.DiffContainer(w.ctx(), &berthv1.DiffContainerRequest{Container: "x"})
	wantCode(t, err, codes.Unimplemented, "DiffContainer")
	_, err = w.containers.CommitContainer(w.ctx(), &berthv1.CommitContainerRequest{Container: "x"})
	wantCode(t, err, codes.Unimplemented, "CommitContainer")
	_, err = berthv1.NewSandboxesServiceClient(w.Dial()).RunSandbox(w.ctx(), &berthv1.RunSandboxRequest{})
	wantCode(t, err, codes.Unimplemented, "RunSandbox")
}

func TestHealthAndReflection(t *testing.T) {
	w := newWorld(t)
	conn := w.Dial()
	health, err := healthapi.NewHealthClient(conn).Check(w.ctx(), &healthapi.HealthCheckRequest{Service: "berth.v1.ContainersService"})
	if err != nil || health.GetStatus() != healthapi.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}
	stream, err := reflectapi.NewServerReflectionClient(conn).ServerReflectionInfo(w.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectapi.ServerReflectionRequest{MessageRequest: &reflectapi.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil || !strings.Contains(answer.String(), "berth.v1.ContainersService") {
		t.Errorf("reflection: %v, %v", answer, err)
	}
}

// Calls that wait are told that the daemon ends; it does not wait for them.
func TestWaitingCallsEndWithTheDaemon(t *testing.T) {
	w := newWorld(t)
	id := w.run("", w.sleeper())
	w.untilLogged(id, "ready")
	client := w.attach(id)
	waited := make(chan error, 1)
	go func() {
		_, err := w.containers.WaitContainer(w.ctx(), &berthv1.WaitContainerRequest{Container: id})
		waited <- err
	}()
	begin := time.Now()
	w.Stop()
	if took := time.Since(begin); took > testenv.Patience(3*time.Second) {
		t.Errorf("berthd took %v to end", took)
	}
	wantCode(t, <-waited, codes.Unavailable)
	_, err := client.stream.Recv()
	wantCode(t, err, codes.Unavailable)
}

func TestMemoryWhileIdle(t *testing.T) {
	w := newWorld(t)
	id := w.run("", w.sleeper())
	w.untilLogged(id, "ready")
	w.Stop()
	w.Start()
	const limit = 45 << 10
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			t.Logf("resident: %d KiB", kib)
			if kib > limit {
				t.Errorf("berthd takes %d KiB, more than %d", kib, limit)
			}
		}
	}
}
