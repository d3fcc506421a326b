package dropin_test

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// counting is a program whose log tells whether it went on or began anew.
const counting = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"

// goesOn waits until a container's log has come behind the last line that it had, and looks that no number is missing.
// Some may be there twice: what was in a pipe at the checkpoint has been read, and is in it again at the restore.
func (e *engine) goesOn(from int, log ...string) (last int) {
	e.t.Helper()
	waitFor(e.t, "the container to go on", func() bool {
		lines := strings.Fields(e.must(log...))
		for i := 1; i < len(lines); i++ {
			before, _ := strconv.Atoi(lines[i-1])
			if after, err := strconv.Atoi(lines[i]); err != nil || after == 1 || after > before+1 {
				e.t.Fatalf("%q follows %q", lines[i], lines[i-1])
			}
		}
		if len(lines) > 0 {
			last, _ = strconv.Atoi(lines[len(lines)-1])
		}
		return last > from+1
	})
	return last
}

func TestPodmanCheckpoint(t *testing.T) {
	testenv.NeedCRIU(t)
	e := startPodman(t)
	file := filepath.Join(testenv.ShortDir(t), "checkpoint.tar.gz")
	e.must("run", "-d", "--name", "one", image, "sh", "-c", counting)
	t.Cleanup(func() { e.must("rm", "--all", "--force") })
	last := e.goesOn(0, "logs", "one")
	e.must("container", "checkpoint", "one")
	e.want("exited", "inspect", "--format", "{{.State.Status}}", "one")
	e.must("container", "restore", "one")
	e.want("running", "inspect", "--format", "{{.State.Status}}", "one")
	last = e.goesOn(last, "logs", "one")
	e.must("container", "checkpoint", "--leave-running", "--export", file, "one")
	e.want("running", "inspect", "--format", "{{.State.Status}}", "one")
	e.must("rm", "--force", "one")
	e.must("container", "restore", "--import", file, "--name", "other")
	e.goesOn(last, "logs", "other")
	e.must("exec", "other", "true")

	if exec.Command("criu", "check", "--feature", "mem_dirty_track").Run() == nil {
		e.must("container", "checkpoint", "--pre-checkpoint", "other")
		last = e.goesOn(0, "logs", "other")
		e.must("container", "checkpoint", "--with-previous", "other")
		e.must("container", "restore", "other")
		e.goesOn(last, "logs", "other")
	}
	// What podman asks a runtime before it restores into a pod.
	if output, _ := exec.Command(testenv.Binary(t, "berth-runtime"), "restore", "--lsm-mount-context").CombinedOutput(); !strings.Contains(string(output), "flag needs an argument") {
		t.Errorf("%s", output)
	}
}

// Docker hands a checkpoint to containerd, and can't as long as containerd has it, or one with the same specification, from before:
// https://github.com/moby/moby/issues/42900.
func TestDockerCheckpoint(t *testing.T) {
	testenv.NeedCRIU(t)
	e := startDocker(t, "--experimental")
	e.must("run", "-d", "--name", "one", image, "sh", "-c", counting)
	t.Cleanup(func() { e.must("rm", "--force", "one") })
	last := e.goesOn(0, "logs", "one")
	forgotten := func() bool { // it collects what the daemon no longer needs when it finds the time
		output, err := exec.Command(testenv.Peer(t, "ctr"), "--address", e.containerd, "--namespace", "moby", "content", "ls", "--quiet").CombinedOutput()
		if err != nil {
			t.Fatalf("ctr: %v: %s", err, output)
		}
		return len(output) == 0
	}
	e.must("checkpoint", "create", "--leave-running", "one", "first")
	e.goesOn(last, "logs", "one")
	waitFor(t, "containerd to forget its copy", forgotten)
	e.must("checkpoint", "create", "one", "second")
	waitFor(t, "the container to end", func() bool { return e.must("inspect", "--format", "{{.State.Running}}", "one") == "false" })
	if got := e.must("checkpoint", "ls", "one"); !strings.Contains(got, "first") || !strings.Contains(got, "second") {
		t.Errorf("checkpoints: %s", got)
	}
	last = e.goesOn(0, "logs", "one")
	waitFor(t, "containerd to forget its copy", forgotten)
	e.must("start", "--checkpoint", "second", "one")
	e.want("true", "inspect", "--format", "{{.State.Running}}", "one")
	e.goesOn(last, "logs", "one")
}

// Containerd with Debian's shim for runc.
func TestContainerdCheckpoint(t *testing.T) {
	testenv.NeedCRIU(t)
	dir := testenv.ShortDir(t)
	parent := cgroupParent(t, "ctr")
	e := &engine{t: t, client: []string{testenv.Peer(t, "ctr"), "--address", startContainerd(t, dir), "--namespace", "berth-test-ctr"}}
	name := testenv.BusyboxImage(t, testenv.Registry(t))
	e.must("image", "pull", "--plain-http", "--snapshotter", "native", name)
	e.must("run", "--detach", "--runtime", "io.containerd.runc.v2", "--runc-binary", testenv.Binary(t, "berth-runtime"), "--runc-root", filepath.Join(dir, "state"),
		"--snapshotter", "native", "--cgroup", parent+"/one", name, "one", "sh", "-c", "exec >/log; "+counting)
	t.Cleanup(func() { e.try("task", "rm", "--force", "one") })
	log := []string{"task", "exec", "--exec-id", "x", "one", "cat", "/log"}
	last := e.goesOn(0, log...)
	e.must("container", "checkpoint", "--rw", "--image", "--task", "one", "test/checkpoint:one")
	e.goesOn(last, log...)
	e.must("task", "rm", "--force", "one")
	e.must("container", "rm", "one")
	e.must("container", "restore", "--rw", "--live", "one", "test/checkpoint:one")
	e.goesOn(last, log...)
}
