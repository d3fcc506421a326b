package dropin_test

import (
	"path/filepath"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// startDocker starts Debian's dockerd on a private containerd, with berth-runtime as its default runtime. It has no
// bridge and leaves the host's network alone.
func startDocker(t *testing.T) *engine {
	t.Helper()
	dir := testenv.ShortDir(t)
	client, daemon := testenv.Peer(t, "docker"), testenv.Peer(t, "dockerd")
	parent := cgroupParent(t, "docker")
	containerd := startContainerd(t, dir)
	host := "unix://" + filepath.Join(dir, "d.sock")
	background(t, dir, []string{client, "--host", host, "version"},
		daemon, "--host", host, "--data-root", filepath.Join(dir, "d-root"), "--exec-root", filepath.Join(dir, "d-exec"),
		"--pidfile", filepath.Join(dir, "d.pid"), "--containerd", containerd, "--bridge", "none", "--iptables=false",
		"--cgroup-parent", parent, "--exec-opt", "native.cgroupdriver=cgroupfs",
		"--add-runtime", "berth="+testenv.Binary(t, "berth-runtime"), "--default-runtime", "berth", "--log-level", "warn")
	e := &engine{t: t, client: []string{client, "--host", host}, run: []string{"--network", "none"}}
	e.must("import", archive(t, dir), image)
	return e
}

func TestDocker(t *testing.T) {
	e := startDocker(t)
	if got := e.must("info", "--format", "{{.DefaultRuntime}}"); got != "berth" {
		t.Fatalf("the default runtime is %q", got)
	}
	stories(t, e)
}
