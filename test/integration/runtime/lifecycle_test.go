package runtime_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// sleeping returns a running container that does nothing.
func sleeping(t testing.TB, change func(spec *specs.Spec)) *container {
	t.Helper()
	c := newContainer(t, "sleep", "1000")
	if change != nil {
		change(c.Spec)
	}
	c.start()
	return c
}

// leave executes a command that leaves a process behind, which must not hold a pipe of the test's.
func (c *container) leave(args ...string) {
	c.t.Helper()
	log := filepath.Join(c.Bundle, "log")
	if err := c.command(append([]string{"--log", log}, args...)...).Run(); err != nil {
		text, _ := os.ReadFile(log)
		c.t.Fatalf("%v: %v: %s", args, err, text)
	}
}

type state struct {
	OCIVersion, ID, Status, Bundle, Rootfs, Owner string
	Pid                                           int
	Created                                       time.Time
	Annotations                                   map[string]string
}

func (c *container) state() state {
	c.t.Helper()
	return stateIn(c.must("state", c.ID))
}

// stateIn is the state as printed, or nothing of a container that is none yet.
func stateIn(text string) state {
	var st state
	_ = json.Unmarshal([]byte(text), &st)
	return st
}

func (c *container) wantStatus(want string) {
	c.t.Helper()
	if got := c.state().Status; got != want {
		c.t.Errorf("status %q, want %q", got, want)
	}
}

// wantFailure executes the runtime, which has to fail with a sentence that contains want.
func (c *container) wantFailure(want string, args ...string) {
	c.t.Helper()
	if r := c.verb(args...); r.Status != 1 || !strings.Contains(r.Stderr, want) {
		c.t.Errorf("%v: status %d, stderr %q; want 1 and %q", args, r.Status, r.Stderr, want)
	}
}

func wantContains(t testing.TB, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Errorf("there is no %q in %q", want, text)
	}
}

func wantEqual[T comparable](t testing.TB, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCreateStartKillDelete(t *testing.T) {
	c := newContainer(t)
	c.shell("echo started > /out; exec sleep 1000")
	out := filepath.Join(c.Bundle, "out")
	if err := os.WriteFile(out, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/out", Type: "bind", Source: out, Options: []string{"bind"}})
	c.Spec.Annotations = map[string]string{"colour": "blue"}
	c.writeConfig()
	pidFile := filepath.Join(c.Bundle, "pid")
	c.leave("create", "--bundle", c.Bundle, "--pid-file", pidFile, c.ID)
	st := c.state()
	wantEqual(t, st.Status, "created")
	wantEqual(t, st.ID, c.ID)
	wantEqual(t, st.Bundle, c.Bundle)
	wantEqual(t, st.Rootfs, c.Rootfs)
	wantEqual(t, st.Owner, "") // runc tells it in list alone
	wantEqual(t, st.Annotations["colour"], "blue")
	wantEqual(t, readFile(t, pidFile), strconv.Itoa(st.Pid))
	wantEqual(t, readFile(t, out), "") // nothing before start

	c.must("start", c.ID)
	c.wantStatus("running")
	testenv.WaitFor(t, "the process to write", func() bool { return readFile(t, out) == "started" })
	c.wantFailure("it is running", "start", c.ID)
	c.wantFailure("it is running", "delete", c.ID)
	c.must("kill", c.ID, "KILL")
	testenv.WaitFor(t, "the process to end", func() bool { return c.state().Status == "stopped" })
	wantEqual(t, c.state().Pid, 0)
	c.wantFailure("container not running", "kill", c.ID, "KILL")
	c.must("delete", c.ID)
	c.wantFailure("does not exist", "state", c.ID)
	c.wantFailure("does not exist", "delete", c.ID)
	c.gone()
}

func TestRunReturnsTheExitStatus(t *testing.T) {
	for script, want := range map[string]int{"true": 0, "exit 7": 7} {
		c := newContainer(t).shell(script)
		wantEqual(t, c.run().Status, want)
		c.gone()
	}
	// The kernel protects the first process of a pid namespace from itself.
	c := newContainer(t).shell("kill -9 $$")
	c.Spec.Linux.Namespaces = withoutNamespace(c.Spec, specs.PIDNamespace)
	wantEqual(t, c.run().Status, 128+9)
}

func withoutNamespace(spec *specs.Spec, kind specs.LinuxNamespaceType) []specs.LinuxNamespace {
	var kept []specs.LinuxNamespace
	for _, namespace := range spec.Linux.Namespaces {
		if namespace.Type != kind {
			kept = append(kept, namespace)
		}
	}
	return kept
}

func TestRunKeeps(t *testing.T) {
	c := newContainer(t, "true")
	wantEqual(t, c.run("--keep").Status, 0)
	c.wantStatus("stopped")
	c.must("delete", c.ID)
}

func TestRunDetached(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.writeConfig()
	c.leave("run", "--detach", "--bundle", c.Bundle, c.ID)
	c.wantStatus("running")
}

func TestSignalsAreForwarded(t *testing.T) {
	c := newContainer(t).shell("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.05; done")
	c.writeConfig()
	command := c.command("run", "--bundle", c.Bundle, c.ID)
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	if err := stdout.(*os.File).SetReadDeadline(time.Now().Add(testenv.Patience(10 * time.Second))); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("read %q, %v", line, err)
	}
	if err := command.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	line, err = lines.ReadString('\n')
	if err != nil || line != "got\n" {
		t.Errorf("read %q, %v", line, err)
	}
	_ = command.Wait()
	wantEqual(t, command.ProcessState.ExitCode(), 3)
}

func TestDeleteForce(t *testing.T) {
	c := sleeping(t, nil)
	pid := c.state().Pid
	c.must("delete", "--force", c.ID)
	c.gone()
	if content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil && !strings.Contains(string(content), ") Z") {
		t.Errorf("process %d is alive after delete --force: %s", pid, content)
	}
	c.must("delete", "--force", c.ID) // that it is gone is what was asked for
}

func TestDeleteOfACreatedContainer(t *testing.T) {
	c := newContainer(t, "true")
	c.writeConfig()
	c.leave("create", "--bundle", c.Bundle, c.ID)
	c.must("delete", c.ID)
	c.gone()
}

func TestIDs(t *testing.T) {
	c := sleeping(t, nil)
	c.wantFailure("already exists", "create", "--bundle", c.Bundle, c.ID)
	c.wantStatus("running")
	for _, id := range []string{"", "..", "a/b", "a b", strings.Repeat("x", 256)} {
		c.wantFailure("ID", "create", "--bundle", c.Bundle, id)
	}
}

func TestKillKnowsSignals(t *testing.T) {
	c := newContainer(t)
	c.shell(`for i in HUP USR1 USR2 36; do trap "echo $i >> /tmp/got" $i; done; touch /tmp/ready; while :; do sleep 0.05; done`)
	c.Spec.Root.Readonly = false
	c.start()
	testenv.WaitFor(t, "the traps", func() bool { _, err := os.Stat(filepath.Join(c.Rootfs, "tmp/ready")); return err == nil })
	want := ""
	for _, step := range [][2]string{{"HUP", "HUP"}, {"SIGUSR1", "USR1"}, {"12", "USR2"}, {"usr2", "USR2"}, {"RTMIN+2", "36"}} {
		c.must("kill", c.ID, step[0])
		want += step[1] + "\n"
		testenv.WaitFor(t, "signal "+step[0], func() bool {
			content, err := os.ReadFile(filepath.Join(c.Rootfs, "tmp/got"))
			return err == nil && string(content) == want
		})
	}
	c.wantFailure(`"NONSENSE"`, "kill", c.ID, "NONSENSE")
	c.must("kill", "--all", c.ID, "KILL")
	testenv.WaitFor(t, "the end", func() bool { return c.state().Status == "stopped" })
}

func TestPauseAndResume(t *testing.T) {
	c := sleeping(t, nil)
	c.must("pause", c.ID)
	c.wantStatus("paused")
	c.wantFailure("it is paused", "pause", c.ID)
	if r := c.verb("exec", c.ID, "true"); r.Status == 0 || !strings.Contains(r.Stderr, "it is paused") {
		t.Errorf("exec in a paused container: %+v", r)
	}
	c.must("resume", c.ID)
	c.wantStatus("running")
	c.wantFailure("it is running", "resume", c.ID)
	c.must("pause", c.ID)
	c.must("delete", "--force", c.ID)
	c.gone()
}

func TestListAndPs(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.start()
	wantEqual(t, c.must("list", "-q"), c.ID+"\n")
	var all []state
	if err := json.Unmarshal([]byte(c.must("list", "--format", "json")), &all); err != nil || len(all) != 1 {
		t.Fatalf("list: %v, %v", all, err)
	}
	wantEqual(t, all[0].ID, c.ID)
	wantEqual(t, all[0].Status, "running")
	wantEqual(t, all[0].Owner, "root")
	wantContains(t, c.must("list"), c.ID)

	wantContains(t, c.must("ps", c.ID), "sleep 1000")
	var pids []int
	if err := json.Unmarshal([]byte(c.must("ps", "--format", "json", c.ID)), &pids); err != nil || len(pids) != 1 || pids[0] != c.state().Pid {
		t.Errorf("ps: %v, %v", pids, err)
	}
}

func TestVersionAndHelp(t *testing.T) {
	c := newContainer(t)
	if out := c.must("--version"); !strings.HasPrefix(out, "berth-runtime version ") {
		t.Errorf("version %q", out)
	}
	wantContains(t, c.must("--help"), "create")
	wantContains(t, c.must("run", "--help"), "bundle")
	if r := c.verb("frobnicate", "x"); r.Status != 3 || !strings.Contains(r.Stderr, `"frobnicate" is not implemented`) {
		t.Errorf("a command that is none: %+v", r)
	}
	c.wantFailure("", "run", "--nonsense", "x")
}

func TestLog(t *testing.T) {
	c := newContainer(t)
	for format, want := range map[string]string{"json": `{"level":"error","msg":"cannot find container \"nothing\"`, "text": "level=error msg="} {
		file := filepath.Join(c.Bundle, format)
		c.wantFailure("does not exist", "--log", file, "--log-format", format, "state", "nothing")
		wantContains(t, readFile(t, file), want)
	}
	c.wantFailure("yaml", "--log-format", "yaml", "state", "nothing")
}

// TestKilledCreate kills the runtime at moments of its work, and expects delete to find what is left.
func TestKilledCreate(t *testing.T) {
	for delay := 500 * time.Microsecond; delay < 20*time.Millisecond; delay += 1500 * time.Microsecond {
		c := newContainer(t, "sleep", "1000")
		c.writeConfig()
		create := c.command("create", "--bundle", c.Bundle, c.ID)
		if err := create.Start(); err != nil {
			t.Fatal(err)
		}
		end := time.AfterFunc(delay, func() { _ = create.Process.Kill() })
		_ = create.Wait()
		end.Stop()
		c.must("delete", "--force", c.ID)
		c.gone()
	}
}

// TestStateIsNeverTorn reads the states of containers that are being made.
func TestStateIsNeverTorn(t *testing.T) {
	c := newContainer(t, "true")
	c.Spec.Annotations = map[string]string{"long": strings.Repeat("x", 60<<10)}
	c.writeConfig()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			_ = c.command("run", "--bundle", c.Bundle, c.ID).Run()
		}
	}()
	for seen := 0; ; {
		select {
		case <-done:
			if seen == 0 {
				t.Error("no container was seen")
			}
			return
		default:
		}
		r := c.verb("state", c.ID)
		switch {
		case r.Status == 0 && stateIn(r.Stdout).ID == c.ID:
			seen++
		case r.Status == 0 || !strings.Contains(r.Stderr, "does not exist"):
			t.Errorf("%+v", r)
		}
	}
}

// TestKillBeforeStart: the kernel keeps a signal without a handler from the first process of a pid namespace.
func TestKillBeforeStart(t *testing.T) {
	for _, signal := range []string{"TERM", "INT", "HUP", "QUIT", "KILL"} {
		c := newContainer(t, "true")
		c.writeConfig()
		c.leave("create", "--bundle", c.Bundle, c.ID)
		c.must("kill", c.ID, "USR1")
		c.wantStatus("created")
		c.must("kill", c.ID, signal)
		testenv.WaitFor(t, "the container to end by "+signal, func() bool { return c.state().Status == "stopped" })
	}
}

func TestListWhereNothingIs(t *testing.T) {
	c := newContainer(t)
	c.wantFailure("no such file or directory", "list")
}

// TestAffinityOfTheCaller: a service that keeps its manager to some processors says nothing of the containers.
func TestAffinityOfTheCaller(t *testing.T) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil || all.Count() < 2 {
		t.Skip("needs two processors")
	}
	cpu := 0
	for !all.IsSet(cpu) {
		cpu++
	}
	pinned := func(args ...string) string {
		t.Helper()
		line := append([]string{testenv.Peer(t, "taskset"), "-c", strconv.Itoa(cpu)}, args...)
		r := testenv.Execute(t, exec.Command(line[0], line[1:]...))
		if r.Status != 0 {
			t.Fatalf("%v: %+v", line, r)
		}
		return r.Stdout
	}
	show := []string{"grep", "Cpus_allowed_list", "/proc/self/status"}
	c := newContainer(t, show...)
	c.writeConfig()
	free := c.run().Stdout
	if got := pinned(c.command("run", "--bundle", c.Bundle, c.ID).Args...); got != free {
		t.Errorf("run by a confined caller: %q, want %q", got, free)
	}
	c.Spec.Process.Args = []string{"sleep", "1000"}
	c.start()
	if got := pinned(c.command(append([]string{"exec", c.ID}, show...)...).Args...); got != free {
		t.Errorf("exec by a confined caller: %q, want %q", got, free)
	}
}
