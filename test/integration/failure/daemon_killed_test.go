package failure_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// shared is a directory of the host that a container has at /shared: files in it are how the two tell each other things
// that berthd has no part in.
func shared(t testing.TB, spec *berthv1.ContainerSpec) string {
	t.Helper()
	dir := testenv.ShortDir(t)
	spec.Mounts = append(spec.Mounts, &berthv1.Mount{Type: berthv1.MountType_MOUNT_TYPE_BIND, Source: dir, Target: "/shared"})
	return dir
}

func touch(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func untilExists(t testing.TB, path string) {
	t.Helper()
	testenv.Until(t, limit, path+" is there", func() error {
		_, err := os.Stat(path)
		return err
	})
}

// alive tells whether a process exists and has not ended: one whose parent has been killed may be a zombie for a while.
func alive(pid uint32) bool {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, fields, _ := strings.Cut(string(content), ") ")
	return err == nil && !strings.HasPrefix(fields, "Z")
}

func TestContainersDoNotNoticeThatTheDaemonIsKilled(t *testing.T) {
	d, image := startWithImage(t)
	counting := shell(image, "i=0; while :; do i=$((i+1)); echo $i; [ -e /shared/stop ] && touch /shared/stopped && sleep 1000; done")
	dir := shared(t, counting)
	served, counter := d.serve("web", image), d.run("counter", counting)
	d.untilLogged("counter", "\n1000\n")

	for range 3 {
		d.Kill()
		if err := served.get(); err != nil {
			t.Errorf("while berthd is dead: %v", err)
		}
		d.start()
		for name, before := range map[string]*berthv1.Container{"web": served.Container, "counter": counter} {
			now := d.inspect(name)
			if now.State.Status != running || now.State.Pid != before.State.Pid || !alive(now.State.Pid) {
				t.Errorf("%s is %v with process %d, was process %d", name, now.State.Status, now.State.Pid, before.State.Pid)
			}
			if !now.State.StartedAt.AsTime().Equal(before.State.StartedAt.AsTime()) {
				t.Errorf("%s started at %v, and before at %v", name, now.State.StartedAt, before.State.StartedAt)
			}
		}
	}
	touch(t, filepath.Join(dir, "stop"))
	untilExists(t, filepath.Join(dir, "stopped"))
	last := 0
	for line := range strings.Lines(d.logs("counter")) {
		if n, err := strconv.Atoi(strings.TrimSpace(line)); err != nil || n != last+1 {
			t.Fatalf("the log has %q behind %d", line, last)
		}
		last++
	}
	if output, code := d.exec("web", "cat /var/www/index.html; exit 3"); output != "hello\n" || code != 3 {
		t.Errorf("exec afterwards: %q, %d", output, code)
	}
	if err := served.get(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestExitWhileTheDaemonIsDeadIsKept(t *testing.T) {
	d, image := startWithImage(t)
	const wait = "touch /shared/up; until [ -e /shared/go ]; do sleep 0.02; done; echo last words; "
	ending := map[string]struct {
		how  string
		code int32
	}{
		"seven": {"exit 7", 7}, "zero": {"exit 0", 0}, "killed": {"kill -9 $$", 137}, "terminated": {"trap - TERM; kill -TERM $$", 143},
	}
	dirs, pids := map[string]string{}, map[string]uint32{}
	for name, end := range ending {
		spec := shell(image, wait+end.how)
		spec.Init = name == "killed" || name == "terminated" // process 1 of a pid namespace can't kill itself
		dirs[name] = shared(t, spec)
		pids[name] = d.run(name, spec).State.Pid
		untilExists(t, filepath.Join(dirs[name], "up"))
	}
	d.Kill()
	for name, dir := range dirs {
		touch(t, filepath.Join(dir, "go"))
		testenv.Until(t, limit, name+" ends", func() error {
			if alive(pids[name]) {
				return fmt.Errorf("process %d is there", pids[name])
			}
			return nil
		})
	}
	d.start()
	for name, end := range ending {
		state := d.inspect(name).State
		if state.Status != exited || state.ExitCode != end.code || state.Pid != 0 {
			t.Errorf("%s: %v with code %d, process %d; want code %d", name, state.Status, state.ExitCode, state.Pid, end.code)
		}
		if finished := state.FinishedAt.AsTime(); finished.Before(state.StartedAt.AsTime()) {
			t.Errorf("%s finished at %v and was started at %v", name, finished, state.StartedAt.AsTime())
		}
		if log := d.logs(name); log != "last words\n" {
			t.Errorf("%s: the log is %q", name, log)
		}
	}
	if _, err := d.containers().StartContainer(d.t.Context(), &berthv1.StartContainerRequest{Container: "zero"}); err != nil {
		t.Errorf("starting again: %v", err)
	}
	if state := d.awaitExit("zero"); state.ExitCode != 0 {
		t.Errorf("the second run: %v", state)
	}
}

func TestPoliciesAreFollowedAfterTheDaemonWasDead(t *testing.T) {
	d, image := startWithImage(t)
	const script = "touch /shared/$$.$(cut -d' ' -f22 /proc/self/stat); until [ -e /shared/go ]; do sleep 0.02; done; rm /shared/go; exit 1"
	start := func(name string, change func(*berthv1.ContainerSpec)) (dir string, pid uint32) {
		t.Helper()
		spec := shell(image, script)
		change(spec)
		dir = shared(t, spec)
		return dir, d.run(name, spec).State.Pid
	}
	always, alwaysPid := start("always", func(s *berthv1.ContainerSpec) {
		s.Restart = &berthv1.RestartPolicy{Condition: berthv1.RestartCondition_RESTART_CONDITION_ALWAYS}
	})
	gone, gonePid := start("gone", func(s *berthv1.ContainerSpec) { s.AutoRemove = true })
	d.Kill()
	for dir, pid := range map[string]uint32{always: alwaysPid, gone: gonePid} {
		touch(t, filepath.Join(dir, "go"))
		testenv.Until(t, limit, "the container ends", func() error {
			if alive(pid) {
				return fmt.Errorf("process %d is there", pid)
			}
			return nil
		})
	}
	d.start()
	testenv.Until(t, limit, "the container is restarted", func() error {
		if state := d.inspect("always").State; state.Status != running || state.RestartCount != 1 || state.Pid == alwaysPid {
			return fmt.Errorf("it is %v", state)
		}
		return nil
	})
	testenv.Until(t, limit, "the container has removed itself", func() error {
		for _, c := range d.list() {
			if c.Name == "gone" {
				return fmt.Errorf("it is %v", c.State)
			}
		}
		return nil
	})
}

// attached is a client at the streams of a container.
type attached struct {
	t      testing.TB
	stream berthv1.ContainersService_AttachContainerClient
}

func (d *daemon) attach(ref string) attached {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), testenv.Patience(limit))
	d.t.Cleanup(cancel)
	stream, err := d.containers().AttachContainer(ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	err = stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_Start{Start: &berthv1.AttachStart{
		Container: ref, Stdin: true, Stdout: true, Stderr: true,
	}}})
	if err != nil {
		d.t.Fatal(err)
	}
	if ready, err := stream.Recv(); err != nil || ready.GetReady() == nil {
		d.t.Fatalf("attach answered %v, %v", ready, err)
	}
	return attached{d.t, stream}
}

// say writes to the container and waits until that has written what is wanted.
func (a attached) say(line, want string) {
	a.t.Helper()
	if err := a.stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_Stdin{Stdin: []byte(line)}}); err != nil {
		a.t.Fatal(err)
	}
	for got := ""; got != want; {
		response, err := a.stream.Recv()
		if err != nil {
			a.t.Fatalf("after %q: %v", got, err)
		}
		got += string(response.GetOutput().GetData())
	}
}

// last writes what makes the container exit and returns its exit code.
func (a attached) last(line string) int32 {
	a.t.Helper()
	err := a.stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_Stdin{Stdin: []byte(line)}})
	for err == nil {
		var response *berthv1.AttachContainerResponse
		if response, err = a.stream.Recv(); response.GetExit() != nil {
			return response.GetExit().GetCode()
		}
	}
	a.t.Fatal(err)
	return 0
}

func TestAttachedClientLosesTheDaemonOnly(t *testing.T) {
	d, image := startWithImage(t)
	spec := shell(image, "while read line && [ $line != quit ]; do echo got $line; done; echo end; exit 4")
	spec.Process.Stdin = true
	d.run("reader", spec)
	first := d.attach("reader")
	first.say("one\n", "got one\n")
	d.Kill()
	if _, err := first.stream.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the client was told %v", err)
	}
	d.start()
	second := d.attach("reader")
	second.say("two\n", "got two\n")
	if code := second.last("quit\n"); code != 4 {
		t.Errorf("exit code %d", code)
	}
	if log := d.logs("reader"); log != "got one\ngot two\nend\n" {
		t.Errorf("the log is %q", log)
	}
}

func TestTerminatedDaemonLeavesContainersAlone(t *testing.T) {
	d, image := startWithImage(t)
	c := d.run("sleeper", shell(image, "exec sleep 1000"))
	d.Stop()
	if !alive(c.State.Pid) {
		t.Error("the container ended with berthd")
	}
	d.start()
	if now := d.inspect("sleeper"); now.State.Status != running || now.State.Pid != c.State.Pid {
		t.Errorf("afterwards it is %v", now.State)
	}
}

func TestPausedContainerStaysPaused(t *testing.T) {
	d, image := startWithImage(t)
	d.run("sleeper", shell(image, "exec sleep 1000"))
	if _, err := d.containers().PauseContainer(d.t.Context(), &berthv1.PauseContainerRequest{Container: "sleeper"}); err != nil {
		t.Fatal(err)
	}
	d.Kill()
	d.start()
	if now := d.inspect("sleeper"); now.State.Status != paused {
		t.Errorf("afterwards it is %v", now.State)
	}
	if _, err := d.containers().ResumeContainer(d.t.Context(), &berthv1.ResumeContainerRequest{Container: "sleeper"}); err != nil {
		t.Fatal(err)
	}
	if output, code := d.exec("sleeper", "echo awake"); output != "awake\n" || code != 0 {
		t.Errorf("exec: %q, %d", output, code)
	}
}

// What a daemon removes at its start because it belongs to nobody must not belong to another daemon.
func TestSecondDaemonLeavesTheFirstAlone(t *testing.T) {
	first, image := startWithImage(t)
	served := first.serve("web", image)
	second := startDaemon(t)
	if err := second.pull(image); err != nil {
		t.Fatal(err)
	}
	other := second.serve("web", image)
	check := func(when string) {
		t.Helper()
		for name, err := range map[string]error{"first": served.get(), "second": other.get()} {
			if err != nil {
				t.Errorf("%s: the container of the %s daemon: %v", when, name, err)
			}
		}
	}
	check("both run")
	second.Kill()
	check("the second is dead")
	second.start()
	check("the second was restarted")
	first.Kill()
	first.start()
	check("the first was restarted")
	if _, err := second.containers().RemoveContainer(t.Context(), &berthv1.RemoveContainerRequest{Container: "web", Force: true}); err != nil {
		t.Error(err)
	}
	second.Stop()
	if err := served.get(); err != nil {
		t.Errorf("the second has ended: %v", err)
	}
}
