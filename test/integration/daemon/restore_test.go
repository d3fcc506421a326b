package daemon_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

func TestContainersSurviveTheDaemon(t *testing.T) {
	for name, end := range map[string]func(*world){"killed": func(w *world) { w.Kill() }, "stopped": func(w *world) { w.Stop() }} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := w.spec("sh", "-c", `echo ready; while read line; do echo "got $line"; done; exit 12`)
			spec.Process.Stdin, spec.Process.StdinOnce, spec.Process.Env = true, false, []string{"KEPT=yes"}
			id := w.run("steady", spec)
			w.untilLogged(id, "ready")
			before := w.inspect(id)
			end(w)
			if !running(before.GetState().GetPid()) {
				t.Fatal("the container's process died with berthd")
			}
			w.Start()
			after := w.inspect(id)
			if after.GetState().GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING || after.GetState().GetPid() != before.GetState().GetPid() {
				t.Errorf("state before: %v; after: %v", before.GetState(), after.GetState())
			}
			if !after.GetState().GetStartedAt().AsTime().Equal(before.GetState().GetStartedAt().AsTime()) {
				t.Errorf("started at %v, now at %v", before.GetState().GetStartedAt(), after.GetState().GetStartedAt())
			}
			if output, code := w.exec(id, "sh", "-c", "echo $KEPT"); output != "yes\n" || code != 0 {
				t.Errorf("exec after the restart: %q, %d", output, code)
			}
			client := w.attach(id)
			client.write("after\n")
			client.until("got after\n")
			if _, err := w.containers.StopContainer(w.ctx(), &berthv1.StopContainerRequest{Container: id, Signal: "KILL"}); err != nil {
				t.Fatal(err)
			}
			if code := w.inspect(id).GetState().GetExitCode(); code != 137 {
				t.Errorf("exit code %d, want 137", code)
			}
		})
	}
}

// A directory that is no container's, as the lost+found of a disk of its own, is not taken for a creation that was interrupted.
func TestStrangeDirectoriesAreKept(t *testing.T) {
	w := newWorld(t)
	id := w.create("mine", w.spec("true"))
	var kept []string
	for _, dir := range []string{filepath.Join(w.Root, "containers"), filepath.Join(w.State, "bundles")} {
		for _, name := range []string{"lost+found", strings.Repeat("x", 64)} {
			file := filepath.Join(dir, name, "file")
			if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("precious"), 0o600)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(file)) })
			kept = append(kept, file)
		}
	}
	w.Kill()
	w.Start()
	for _, file := range kept {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
	list, err := w.containers.ListContainers(w.ctx(), &berthv1.ListContainersRequest{All: true})
	if err != nil || len(list.GetContainers()) != 1 || list.GetContainers()[0].GetId() != id {
		t.Errorf("there are the containers %v, %v", list, err)
	}
}

func running(pid uint32) bool { return syscall.Kill(int(pid), 0) == nil }

// What ended while nobody looked is recorded with its exit code and the time at which it did.
func TestEndsWhileTheDaemonIsAway(t *testing.T) {
	w := newWorld(t)
	id := w.run("ends", w.spec("sh", "-c", `trap "echo bye; exit 23" TERM; echo ready; sleep 1000 & wait`))
	removing := w.sleeper()
	removing.AutoRemove = true
	gone := w.run("gone", removing)
	again := w.sleeper()
	again.Restart = always()
	restarts := w.run("restarts", again)
	for _, ref := range []string{id, gone, restarts} {
		w.untilLogged(ref, "ready")
	}
	pids := []uint32{w.inspect(id).GetState().GetPid(), w.inspect(gone).GetState().GetPid(), w.inspect(restarts).GetState().GetPid()}
	w.Kill()
	told := time.Now()
	for _, pid := range pids {
		if err := syscall.Kill(int(pid), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	for _, pid := range pids {
		testenv.Until(t, 10*time.Second, "the process is gone", func() error {
			if running(pid) {
				return fmt.Errorf("process %d is there", pid)
			}
			return nil
		})
	}
	ended := time.Now() // a time of the next berthd's own is later
	w.Start()
	state := w.inspect(id).GetState()
	if state.GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_EXITED || state.GetExitCode() != 23 {
		t.Errorf("state %v, want exited with 23", state)
	}
	if at := state.GetFinishedAt().AsTime(); at.Before(told) || at.After(ended) {
		t.Errorf("ended at %v by its record, and between %v and %v in truth", at, told, ended)
	}
	if logged := w.logs(id); !strings.HasSuffix(logged, "bye\n") {
		t.Errorf("what it wrote while berthd was away is not in the log: %q", logged)
	}
	testenv.Until(t, 10*time.Second, "the container with --rm is removed", func() error {
		_, err := w.containers.InspectContainer(w.ctx(), &berthv1.InspectContainerRequest{Container: gone})
		if err == nil {
			return fmt.Errorf("it is there")
		}
		wantCode(t, err, codes.NotFound)
		return nil
	})
	testenv.Until(t, 10*time.Second, "the container with a restart policy runs", func() error {
		if s := w.inspect(restarts).GetState(); s.GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING {
			return fmt.Errorf("it is %v", s)
		}
		return nil
	})
}

// After a reboot /run is empty and nothing runs.
func TestRestartPoliciesAfterAReboot(t *testing.T) {
	w := newWorld(t)
	specs := map[string]berthv1.RestartCondition{
		"never": berthv1.RestartCondition_RESTART_CONDITION_NO, "always": berthv1.RestartCondition_RESTART_CONDITION_ALWAYS,
		"always-stopped": berthv1.RestartCondition_RESTART_CONDITION_ALWAYS,
		"unless":         berthv1.RestartCondition_RESTART_CONDITION_UNLESS_STOPPED, "unless-stopped": berthv1.RestartCondition_RESTART_CONDITION_UNLESS_STOPPED,
	}
	for name, condition := range specs {
		spec := w.sleeper()
		spec.Restart = &berthv1.RestartPolicy{Condition: condition}
		w.run(name, spec)
		w.untilLogged(name, "ready")
		if strings.HasSuffix(name, "stopped") {
			if _, err := w.containers.StopContainer(w.ctx(), &berthv1.StopContainerRequest{Container: name}); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.Kill()
	w.reboot()
	w.Start()
	for _, name := range []string{"always", "always-stopped", "unless"} {
		testenv.Until(t, 10*time.Second, name+" runs", func() error {
			if state := w.inspect(name).GetState(); state.GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING {
				return fmt.Errorf("it is %v", state)
			}
			return nil
		})
	}
	w.Stop() // ends when all that berthd began at its start is done
	w.Start()
	for _, name := range []string{"never", "unless-stopped"} {
		if state := w.inspect(name).GetState(); state.GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_EXITED {
			t.Errorf("%s is %v", name, state)
		}
	}
	if code := w.inspect("never").GetState().GetExitCode(); code != 255 {
		t.Errorf("exit code of a container that a reboot ended: %d, want 255", code)
	}
}

// reboot does to the daemon's world what a power failure does: everything that is not on disk is gone.
func (w *world) reboot() {
	w.t.Helper()
	for _, p := range testenv.Processes(w.t, w.State+"/") {
		if p.Pid != os.Getpid() {
			_ = syscall.Kill(p.Pid, syscall.SIGKILL)
		}
	}
	for _, dir := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		procs, _ := filepath.Glob(dir + w.Cgroup + "/*/cgroup.procs")
		for _, file := range procs {
			testenv.Until(w.t, 10*time.Second, "the containers' processes are gone", func() error {
				content, err := os.ReadFile(file)
				if err != nil {
					return nil
				}
				for text := range strings.FieldsSeq(string(content)) {
					var pid int
					if _, err := fmt.Sscan(text, &pid); err == nil {
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
				}
				if len(content) > 0 {
					return fmt.Errorf("%s has %q", file, content)
				}
				return os.Remove(filepath.Dir(file))
			})
		}
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[4], w.State+"/") {
			_ = syscall.Unmount(fields[4], syscall.MNT_DETACH)
		}
	}
	if err := os.RemoveAll(w.State); err != nil {
		w.t.Fatal(err)
	}
}

func TestTwoDaemonsDoNotShareDirectories(t *testing.T) {
	w := newWorld(t)
	other := testenv.DaemonFails(t, "--root", w.Root, "--state", t.TempDir(), "--address", "unix://"+filepath.Join(testenv.ShortDir(t), "s"))
	if !strings.Contains(other, "another berthd uses directory") || !strings.Contains(other, w.Root) {
		t.Errorf("the second daemon said %q", other)
	}
}
