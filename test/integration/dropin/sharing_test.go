package dropin_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/testenv"
)

// elsewhere is the engine without the flag of run that says which network its containers have.
func (e *engine) elsewhere() *engine {
	inner := *e
	if i := slices.Index(e.run, "--network"); i >= 0 {
		inner.run = slices.Delete(slices.Clone(e.run), i, i+2)
	}
	return &inner
}

// sharing puts containers into each other's namespaces, and the host's.
func sharing(e *engine) {
	e.begin("first", "--ipc", "shareable", "--hostname", "first")
	for name, flags := range map[string][]string{
		"net": {"--network", "container:first"}, "ipc": {"--network", "none", "--ipc", "container:first"}, "pid": {"--network", "none", "--pid", "container:first"},
	} {
		link := "/proc/self/ns/" + name
		theirs := e.must("exec", "first", "readlink", link)
		e.elsewhere().want(theirs, append(append([]string{"run", "--rm"}, flags...), image, "readlink", link)...)
	}
	for name, flags := range map[string][]string{
		"net": {"--network", "host"}, "ipc": {"--network", "none", "--ipc", "host"}, "pid": {"--network", "none", "--pid", "host"}, "uts": {"--network", "none", "--uts", "host"},
	} {
		theirs, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			e.t.Fatal(err)
		}
		e.elsewhere().want(theirs, append(append([]string{"run", "--rm"}, flags...), image, "readlink", "/proc/self/ns/"+name)...)
	}
	// The end of one that shares the other's processes is that of its own, and of no other.
	e.begin("second", "--pid", "container:first")
	e.must("exec", "-d", "second", "sleep", "1001")
	waitFor(e.t, "all three processes", func() bool { return strings.Count(e.must("exec", "first", "ps"), "sleep 100") == 3 })
	e.must("kill", "second")
	e.want("137", "wait", "second")
	if left := e.must("exec", "first", "ps"); strings.Count(left, "sleep 100") != 1 {
		e.t.Errorf("of the second container there are processes left:\n%s", left)
	}
}

// input comes over stdin.
func input(e *engine) {
	e.begin("input")
	for _, args := range [][]string{{"run", "--rm", "-i", image, "cat"}, {"exec", "-i", "input", "cat"}} {
		inner := *e
		inner.stdin = "one\ntwo\n"
		inner.want("one\ntwo", args...)
	}
}

// detached processes of exec go on.
func detached(e *engine) {
	e.begin("detached")
	e.must("exec", "-d", "detached", "sh", "-c", "echo there > /dev/shm/file; sleep 1000")
	waitFor(e.t, "the process to write", func() bool { return e.try("exec", "detached", "cat", "/dev/shm/file").stdout == "there\n" })
}

// copying goes through the container's root.
func copying(e *engine) {
	e.begin("copying")
	file := e.t.TempDir() + "/file"
	if err := os.WriteFile(file, []byte("copied\n"), 0o644); err != nil {
		e.t.Fatal(err)
	}
	e.must("cp", file, "copying:/tmp/there")
	e.want("copied", "exec", "copying", "cat", "/tmp/there")
	e.must("cp", "copying:/etc/os-release", file)
	if content, err := os.ReadFile(file); err != nil || string(content) != "ID=berth-test\n" {
		e.t.Errorf("%q, %v", content, err)
	}
}

// ownSignal stops a container by the signal that its init system has for it.
func ownSignal(e *engine) {
	e.must("run", "-d", "--name", "own", "--stop-signal", "SIGRTMIN+3", image, "sh", "-c", "trap 'exit 5' 37; echo ready; while :; do sleep 0.1; done")
	e.t.Cleanup(func() { e.must("rm", "-f", "own") })
	waitFor(e.t, "the program to be ready", func() bool { return e.must("logs", "own") == "ready" })
	e.must("stop", "--time", "20", "own")
	e.want("5", "inspect", "--format", "{{.State.ExitCode}}", "own")
}

// watching shows what becomes of a container, and what it uses.
func watching(e *engine) {
	e.must("run", "-d", "--name", "again", "--restart", "on-failure:2", image, "sh", "-c", "exit 3")
	e.t.Cleanup(func() { e.must("rm", "-f", "again") })
	waitFor(e.t, "two restarts", func() bool {
		return e.must("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", "again") == "exited 3 2"
	})
	left := endHierarchies(e.t)
	e.begin("watching", "--memory", "64m", "--memory-swap", "64m")
	e.want("running 0", "inspect", "--format", "{{.State.Status}} {{.RestartCount}}", "watching")
	if len(left) > 0 && !e.isPodman() {
		e.t.Skipf("containerd's shim has no statistics while %q is mounted nowhere", left)
	}
	waitFor(e.t, "statistics with the limit", func() bool { // dockerd has none before it has collected some
		got := e.must("stats", "--no-stream", "--format", "{{.MemUsage}}", "watching")
		return strings.Contains(got, "64MiB") || strings.Contains(got, "67.11MB")
	})
}

// endHierarchies ends hierarchies of cgroup v1 that live on without a mount, as a benchmark or a runtime's test in a mount
// namespace of its own leaves them, and returns those that somebody still uses. While a process's list of cgroups names one,
// containerd 1.6's shim ("cannot find cgroup mount destination") has no statistics of it at all, whatever the runtime is,
// and dockerd tells of 0 bytes.
func endHierarchies(t *testing.T) []string {
	left, dir := unmounted(t), t.TempDir()
	for deadline := time.Now().Add(testenv.Patience(5 * time.Second)); len(left) > 0 && time.Now().Before(deadline); {
		for _, options := range left {
			if strings.HasPrefix(options, "name=") {
				options = "none," + options
			}
			// An unused hierarchy ends with its last mount.
			command := exec.Command("unshare", "--mount", "sh", "-c", `mount -t cgroup -o "$0" none "$1" && umount "$1"`, options, dir)
			if output, err := command.CombinedOutput(); err != nil {
				t.Logf("%v: %s", command.Args, output)
			}
		}
		// That takes a moment, as does the end of a group that has been removed.
		for again := time.Now().Add(testenv.Patience(time.Second)); len(left) > 0 && time.Now().Before(again); left = unmounted(t) {
			time.Sleep(20 * time.Millisecond)
		}
	}
	return left
}

// unmounted returns the hierarchies of cgroup v1 that are not mounted in this mount namespace.
func unmounted(t *testing.T) []string {
	var mounted, left []string
	for line := range strings.Lines(read(t, "/proc/self/mountinfo")) {
		if _, system, _ := strings.Cut(strings.TrimSpace(line), " - "); strings.HasPrefix(system, "cgroup ") {
			mounted = append(mounted, strings.Split(system[strings.LastIndex(system, " ")+1:], ",")...)
		}
	}
	for line := range strings.Lines(read(t, "/proc/self/cgroup")) {
		parts := strings.SplitN(line, ":", 3)
		first, _, _ := strings.Cut(parts[1], ",")
		if first != "" && !slices.Contains(mounted, first) {
			left = append(left, parts[1])
		}
	}
	return left
}

// health is asked by processes of the engine's in the container.
func health(e *engine) {
	e.begin("health", "--health-cmd", "test -e /dev/shm/well", "--health-interval", "1s", "--health-retries", "1")
	if e.isPodman() { // which has its timers from systemd
		for status, command := range map[int]string{1: "true", 0: "touch /dev/shm/well"} {
			e.must("exec", "health", "rm", "-f", "/dev/shm/well")
			e.must("exec", "health", "sh", "-c", command)
			if o := e.try("healthcheck", "run", "health"); o.status != status {
				e.t.Errorf("%s: %+v, want %d", command, o, status)
			}
		}
		return
	}
	healthy := func(want string) {
		waitFor(e.t, want, func() bool { return e.must("inspect", "--format", "{{.State.Health.Status}}", "health") == want })
	}
	healthy("unhealthy")
	e.must("exec", "health", "touch", "/dev/shm/well")
	healthy("healthy")
}
