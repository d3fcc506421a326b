package failure_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// freeze stops the shim of a container until the test has ended.
func freeze(t testing.TB, c *berthv1.Container) {
	t.Helper()
	shim := shimOf(t, c)
	if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(shim, syscall.SIGCONT) })
}

// within fails the test unless call returns in time, and returns its error.
func within(t testing.TB, limit time.Duration, what string, call func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience(limit))
	defer cancel()
	err := call(ctx)
	if ctx.Err() != nil {
		t.Errorf("%s did not end within %v", what, testenv.Patience(limit))
	}
	return err
}

func (d *daemon) rm(ctx context.Context, ref string) error {
	_, err := d.containers().RemoveContainer(ctx, &berthv1.RemoveContainerRequest{Container: ref, Force: true})
	return err
}

func (d *daemon) stop(ctx context.Context, ref string) error {
	_, err := d.containers().StopContainer(ctx, &berthv1.StopContainerRequest{Container: ref, Timeout: durationpb.New(time.Second)})
	return err
}

// sampled returns the containers that a single round of statistics tells of.
func (d *daemon) sampled(ctx context.Context) (map[string]*berthv1.StatsContainersResponse, error) {
	stream, err := d.containers().StatsContainers(ctx, &berthv1.StatsContainersRequest{OneShot: true})
	samples := map[string]*berthv1.StatsContainersResponse{}
	for err == nil {
		var sample *berthv1.StatsContainersResponse
		if sample, err = stream.Recv(); err == nil {
			samples[sample.GetName()] = sample
		}
	}
	if ctx.Err() == nil {
		err = nil
	}
	return samples, err
}

// A shim that is stopped, as a debugger or the kernel's memory management may leave it, costs its own container only.
func TestStoppedShimCostsItsContainerOnly(t *testing.T) {
	d, image := startWithImage(t)
	frozen, stopped, other := d.run("frozen", shell(image, "exec sleep 1000")), d.run("stopped", shell(image, "exec sleep 1000")), d.run("other", shell(image, "exec sleep 1000"))
	freeze(t, frozen)
	freeze(t, stopped)
	err := within(t, 8*time.Second, "stats", func(ctx context.Context) error {
		samples, err := d.sampled(ctx)
		if samples["other"].GetMemory().GetUsage() == 0 {
			t.Errorf("the sample of the other container: %v", samples["other"])
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for what, call := range map[string]func(context.Context) error{
		"top": func(ctx context.Context) error {
			_, err := d.containers().TopContainer(ctx, &berthv1.TopContainerRequest{Container: "frozen"})
			return err
		},
		"pause": func(ctx context.Context) error {
			_, err := d.containers().PauseContainer(ctx, &berthv1.PauseContainerRequest{Container: "frozen"})
			return err
		},
	} {
		err := within(t, 20*time.Second, what, call)
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "shim does not answer") {
			t.Errorf("%s: %v", what, err)
		}
	}
	ended := make(chan error, 1)
	go func() {
		ended <- within(t, 40*time.Second, "stop", func(ctx context.Context) error { return d.stop(ctx, "stopped") })
	}()
	if err := within(t, 40*time.Second, "rm -f", func(ctx context.Context) error { return d.rm(ctx, "frozen") }); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, c := range []*berthv1.Container{frozen, stopped} {
		if alive(c.State.Pid) {
			t.Errorf("process %d of %s is there", c.State.Pid, c.Name)
		}
	}
	if now := d.inspect("other"); now.State.Status != running || !alive(other.State.Pid) {
		t.Errorf("the other container is %v", now.State)
	}
}

// A container whose shim did not answer a berthd that started is one like any other when it answers again.
func TestShimThatAnswersAgain(t *testing.T) {
	d, image := startWithImage(t)
	spec := shell(image, "exec sleep 1000")
	spec.Process.Env = []string{"KEPT=yes"}
	frozen := d.run("frozen", spec)
	shim := shimOf(t, frozen)
	freeze(t, frozen)
	d.Kill()
	d.start()
	if err := syscall.Kill(shim, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if output, code := d.exec("frozen", "echo $KEPT"); output != "yes\n" || code != 0 {
		t.Errorf("a command in it says %q and ends with %d", output, code)
	}
	if now := d.inspect("frozen"); now.State.Status != running || now.State.Pid != frozen.State.Pid {
		t.Errorf("the container is %v", now.State)
	}
}

func TestStoppedShimKeepsTheDaemonNeitherFromStartingNorFromEnding(t *testing.T) {
	d, image := startWithImage(t)
	frozen, other := d.run("frozen", shell(image, "exec sleep 1000")), d.run("other", shell(image, "exec sleep 1000"))
	freeze(t, frozen)
	d.Kill()
	begin := time.Now()
	d.start()
	if took := time.Since(begin); took > testenv.Patience(12*time.Second) {
		t.Errorf("berthd was ready after %v", took)
	}
	if now := d.inspect("other"); now.State.Status != running || now.State.Pid != other.State.Pid {
		t.Errorf("the other container is %v", now.State)
	}
	if now := d.inspect("frozen"); now.State.Status != running || now.State.Pid != frozen.State.Pid {
		t.Errorf("the container with the stopped shim is %v", now.State)
	}
	removed := make(chan error, 1)
	go func() { removed <- d.rm(t.Context(), "frozen") }() // under way when berthd is told to end
	testenv.Until(t, limit, "the container is stopped", func() error {
		content, err := os.ReadFile(filepath.Join(d.Root, "containers", frozen.Id, "state.json"))
		if err == nil && !strings.Contains(string(content), `"stopped":true`) {
			err = errors.New("its record does not say so")
		}
		return err
	})
	d.Stop() // fails the test if it takes too long
	t.Logf("the removal ended with berthd: %v", <-removed)
	d.start()
	if err := within(t, 40*time.Second, "rm -f", func(ctx context.Context) error { return d.rm(ctx, "frozen") }); err != nil && status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	if alive(frozen.State.Pid) {
		t.Errorf("process %d is there", frozen.State.Pid)
	}
}

// A shim that goes on after a berthd has found it stopped tells of its container's end.
func TestShimThatWakesUpIsHeard(t *testing.T) {
	d, image := startWithImage(t)
	spec := shell(image, "until [ -e /shared/go ]; do sleep 0.02; done; exit 9")
	dir := shared(t, spec)
	c := d.run("sleeper", spec)
	shim := shimOf(t, c)
	freeze(t, c)
	d.Kill()
	d.start()
	if err := syscall.Kill(shim, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	touch(t, filepath.Join(dir, "go"))
	if state := d.awaitExit("sleeper"); state.Status != exited || state.ExitCode != 9 {
		t.Errorf("it is %v", state)
	}
}

// hangingRuntime is an OCI runtime whose calls of the given verbs do not end while the file that it returns exists.
func hangingRuntime(t testing.TB, verbs ...string) (runtime, hang string) {
	t.Helper()
	dir := testenv.ShortDir(t)
	runtime, hang = filepath.Join(dir, "runtime"), filepath.Join(dir, "hang")
	var cases []string
	for _, verb := range verbs {
		cases = append(cases, `*" `+verb+` "*`)
	}
	script := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in %s) while [ -e %s ]; do sleep 0.1; done;; esac\nexec %s \"$@\"\n",
		strings.Join(cases, "|"), hang, testenv.Binary(t, "berth-runtime"))
	if err := os.WriteFile(runtime, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(hang) })
	return runtime, hang
}

func TestRuntimeThatHangsCostsItsContainerOnly(t *testing.T) {
	d, image := startWithImage(t)
	spec := shell(image, "exec sleep 1000")
	var hang string
	spec.Runtime, hang = hangingRuntime(t, "kill", "delete")
	c := d.run("victim", spec)
	d.run("other", shell(image, "exec sleep 1000"))
	touch(t, hang)
	ended := make(chan error, 1)
	go func() {
		ended <- within(t, 150*time.Second, "rm -f", func(ctx context.Context) error { return d.rm(ctx, "victim") })
	}()
	testenv.Until(t, 40*time.Second, "the process is gone", func() error {
		if alive(c.State.Pid) {
			return fmt.Errorf("process %d is there", c.State.Pid)
		}
		return nil
	})
	if output, code := d.exec("other", "echo there"); output != "there\n" || code != 0 {
		t.Errorf("exec in the other container: %q, %d", output, code)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := os.Remove(hang); err != nil {
		t.Fatal(err)
	}
	// What the runtime did not do is tried again.
	testenv.Until(t, 90*time.Second, "the bundle is removed", func() error {
		if left := entries(t, filepath.Join(d.State, "bundles")); len(left) != 1 {
			return fmt.Errorf("bundles: %v", left)
		}
		return nil
	})
}

// freezer writes into the control files of a container's cgroup that freeze it, in every hierarchy; without an ID, of the group above.
func (d *daemon) freezer(id string, v1, v2 string) {
	d.t.Helper()
	written := 0
	for _, dir := range append(globs(d.t, filepath.Join("/sys/fs/cgroup/*", d.Cgroup, id)), filepath.Join("/sys/fs/cgroup", d.Cgroup, id)) {
		for name, value := range map[string]string{"freezer.state": v1, "cgroup.freeze": v2} {
			file, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
			if err != nil {
				continue
			}
			_, err = file.WriteString(value)
			if err = errors.Join(err, file.Close()); err != nil {
				d.t.Fatal(err)
			}
			written++
		}
	}
	if written == 0 {
		d.t.Fatal("the container has no cgroup that can be frozen")
	}
}

// A container that was frozen behind berthd's back ends like any other.
func TestFrozenContainersEnd(t *testing.T) {
	d, image := startWithImage(t)
	for name, end := range map[string]func(context.Context) error{
		"kill": func(ctx context.Context) error {
			_, err := d.containers().KillContainer(ctx, &berthv1.KillContainerRequest{Container: "kill"})
			return err
		},
		"stop": func(ctx context.Context) error {
			answer, err := d.containers().StopContainer(ctx, &berthv1.StopContainerRequest{Container: "stop", Timeout: durationpb.New(time.Minute)})
			if answer.GetExitCode() != 3 {
				t.Errorf("the container that handles SIGTERM ended with %d", answer.GetExitCode())
			}
			return err
		},
		"rm": func(ctx context.Context) error { return d.rm(ctx, "rm") },
	} {
		c := d.run(name, shell(image, `trap "exit 3" TERM; echo ready; while :; do sleep 0.02; done`))
		d.untilLogged(name, "ready")
		d.freezer(c.Id, "FROZEN", "1")
		if err := within(t, 20*time.Second, name, end); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if alive(c.State.Pid) {
			t.Errorf("%s: process %d is there", name, c.State.Pid)
			d.freezer(c.Id, "THAWED", "0")
		}
	}
}

// A container ends also where the group of all containers is frozen, and the others stay frozen.
func TestContainersOfAFrozenGroupEnd(t *testing.T) {
	d, image := startWithImage(t)
	c, other := d.run("one", shell(image, "sleep 1000")), d.run("other", shell(image, "sleep 1000"))
	d.freezer("", "FROZEN", "1")
	defer d.freezer("", "THAWED", "0")
	err := within(t, 60*time.Second, "rm -f", func(ctx context.Context) error { return d.rm(ctx, "one") })
	if err != nil {
		t.Error(err)
	}
	if alive(c.State.Pid) {
		t.Errorf("process %d of the container that was removed is there", c.State.Pid)
	}
	if !alive(other.State.Pid) {
		t.Error("the other container has ended")
	}
	d.freezer("", "THAWED", "0")
	if err := within(t, 20*time.Second, "rm -f of the other", func(ctx context.Context) error { return d.rm(ctx, "other") }); err != nil {
		t.Error(err)
	}
}
