package dropin_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// startPodman returns Debian's podman with directories of its own, with berth-runtime as its runtime.
func startPodman(t *testing.T) *engine {
	t.Helper()
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	client := testenv.Peer(t, "podman")
	if err := os.MkdirAll(filepath.Join(dir, "net"), 0o755); err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, client: []string{
		client, "--root", filepath.Join(dir, "p-root"), "--runroot", filepath.Join(dir, "p-run"), "--tmpdir", filepath.Join(dir, "p-tmp"),
		"--cgroup-manager", "cgroupfs", "--events-backend", "none", "--network-config-dir", filepath.Join(dir, "net"),
		"--runtime", testenv.Binary(t, "berth-runtime"),
	}, run: []string{
		"--network", "none", "--cgroup-parent", cgroupParent(t, "podman"), "--stop-timeout", "0",
		"--init-path", testenv.Peer(t, "docker-init"), // for want of its own
		"--pids-limit", "-1", // which it writes as 0
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", // its defaults raise limits, which this host may not allow
	}}
	t.Cleanup(func() {
		e.must("rm", "--all", "--force")
		// A monitor has podman clean up after its container, which mounts the storage again.
		waitFor(t, "the monitors to end", func() bool { return len(testenv.Processes(t, dir)) == 0 })
		e.must("system", "reset", "--force")
	})
	e.must("import", "--quiet", archive(t, dir), image)
	return e
}

func TestPodman(t *testing.T) { stories(t, startPodman(t)) }
