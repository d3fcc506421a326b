package dropin_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// TestContainerd runs containers with ctr, Debian's shim for runc, and berth-runtime in runc's place.
func TestContainerd(t *testing.T) {
	dir := testenv.ShortDir(t)
	parent := cgroupParent(t, "ctr")
	address := startContainerd(t, dir)
	rootfs := testenv.BusyboxRootfs(t)
	e := &engine{t: t, client: []string{testenv.Peer(t, "ctr"), "--address", address, "--namespace", "berth-test-ctr"}}
	t.Cleanup(func() {
		for id := range strings.FieldsSeq(e.must("task", "ls", "-q")) {
			e.try("task", "rm", "--force", id)
		}
	})
	begin := func(id string, flags []string, command ...string) []string {
		args := append([]string{
			"run", "--runtime", "io.containerd.runc.v2", "--runc-binary", testenv.Binary(t, "berth-runtime"), "--runc-root", filepath.Join(dir, "state"),
			"--cgroup", parent + "/" + id, "--env", "PATH=/bin", "--rootfs",
		}, flags...)
		return append(append(args, rootfs, id), command...)
	}
	e.want("hello", begin("hello", []string{"--rm"}, "echo", "hello")...)
	if o := e.try(begin("status", []string{"--rm"}, "sh", "-c", "exit 42")...); o.status != 42 {
		t.Errorf("%+v, want 42", o)
	}
	if o := e.try(begin("missing", []string{"--rm"}, "no-such-program")...); o.status == 0 || !strings.Contains(o.stderr, "no-such-program") {
		t.Errorf("%+v", o)
	}
	e.try("container", "rm", "missing") // which versions of ctr leave after a failed run
	left := endHierarchies(t)
	e.must(begin("life", []string{"--detach", "--memory-limit", "67108864"}, "sleep", "1000")...)
	e.want("sleep", "task", "exec", "--exec-id", "one", "life", "cat", "/proc/1/comm")
	if o := e.try("task", "exec", "--exec-id", "two", "life", "sh", "-c", "exit 3"); o.status != 3 {
		t.Errorf("%+v, want 3", o)
	}
	e.must("task", "pause", "life")
	if got := e.must("task", "ls"); !strings.Contains(got, "PAUSED") {
		t.Errorf("tasks %q", got)
	}
	e.must("task", "resume", "life")
	if got := e.must("task", "ls"); !strings.Contains(got, "RUNNING") {
		t.Errorf("tasks %q", got)
	}
	if got := e.must("task", "ps", "life"); len(strings.Split(got, "\n")) != 2 {
		t.Errorf("processes %q", got)
	}
	if len(left) == 0 {
		if got := e.must("task", "metrics", "life"); !strings.Contains(got, " 67108864") || !strings.Contains(got, "pids.current") {
			t.Errorf("metrics %q", got)
		}
	}
	e.must("task", "kill", "--signal", "SIGKILL", "life")
	waitFor(t, "the task to end", func() bool { return strings.Contains(e.must("task", "ls"), "STOPPED") })
	e.must("task", "rm", "life")
	e.must("container", "rm", "life")
	if got := e.must("task", "ls", "-q"); got != "" {
		t.Errorf("%q is left", got)
	}
}
