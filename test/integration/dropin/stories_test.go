package dropin_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// stories tells what an administrator does all day, to an engine that doesn't know what its runtime is.
func stories(t *testing.T, e *engine) {
	for _, story := range []struct {
		name string
		tell func(*engine)
	}{
		{"run", run},
		{"flags", flags},
		{"privileged", privileged},
		{"life", life},
		{"exec", execute},
		{"pause", pause},
		{"update", update},
		{"statuses", statuses},
		{"stop", stop},
		{"terminal", terminal},
		{"memory", memory},
		{"sharing", sharing},
		{"input", input},
		{"detached", detached},
		{"copying", copying},
		{"own signal", ownSignal},
		{"watching", watching},
		{"health", health},
	} {
		t.Run(story.name, func(t *testing.T) {
			inner := *e
			inner.t = t
			story.tell(&inner)
		})
	}
}

// begin starts a container that sleeps, and removes it after the test.
func (e *engine) begin(name string, flags ...string) {
	e.t.Helper()
	e.must(append(append([]string{"run", "-d", "--name", name}, flags...), image, "sleep", "1000")...)
	e.t.Cleanup(func() { e.must("rm", "-f", name) })
}

func (e *engine) want(want string, args ...string) {
	e.t.Helper()
	if got := e.must(args...); got != want {
		e.t.Errorf("%v: %q, want %q", args, got, want)
	}
}

func run(e *engine) {
	e.want("hello", "run", "--rm", image, "echo", "hello")
	e.want("1", "run", "--rm", image, "sh", "-c", "echo $$")
	if got := e.must("ps", "-a", "-q"); got != "" {
		e.t.Errorf("%q is left", got)
	}
}

// flags are those of run whose effect is the runtime's.
func flags(e *engine) {
	dir := e.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("shared"), 0o644); err != nil {
		e.t.Fatal(err)
	}
	for _, test := range []struct {
		want   string
		flags  []string
		script string
	}{
		{"1000 2000", []string{"--user", "1000:2000"}, "echo $(id -u) $(id -g)"},
		{"/tmp", []string{"--workdir", "/tmp"}, "pwd"},
		{"web", []string{"--hostname", "web"}, "hostname"},
		{"0000000000000000", []string{"--cap-drop", "all"}, "grep CapEff /proc/self/status | cut -f2"},
		{"0000000000000001", []string{"--cap-drop", "all", "--cap-add", "chown"}, "grep CapEff /proc/self/status | cut -f2"},
		{"Read-only file system", []string{"--read-only"}, "touch /file 2>&1 | cut -d: -f3 | cut -c2-"},
		{"written", []string{"--read-only", "--tmpfs", "/run"}, "echo written > /run/file; cat /run/file"},
		{"shared", []string{"-v", dir + ":/data:ro"}, "cat /data/file; touch /data/other 2>/dev/null"},
		{"77", []string{"--ulimit", "nofile=77:77"}, "ulimit -n"},
		{"2", nil, "grep '^Seccomp:' /proc/self/status | cut -f2"},
		{"0", []string{"--security-opt", "seccomp=unconfined"}, "grep '^Seccomp:' /proc/self/status | cut -f2"},
		{"1", []string{"--security-opt", "no-new-privileges"}, "grep NoNewPrivs /proc/self/status | cut -f2"},
		{"32768", []string{"--sysctl", "kernel.msgmax=32768"}, "cat /proc/sys/kernel/msgmax"},
		{"shm", nil, "mount | grep ' /dev/shm ' | cut -d' ' -f1"},
		{"crw-rw-rw-", []string{"--device", "/dev/zero:/dev/nil"}, "ls -l /dev/nil | cut -c1-10"},
		{"empty", nil, "test -z \"$(cat /proc/timer_list 2>/dev/null)\" && echo empty"},
		{"value", []string{"--env", "NAME=value"}, "echo $NAME"},
		{"0 5 2000", []string{"--group-add", "5", "--group-add", "2000"}, "echo $(id -G | tr ' ' '\\n' | sort -n)"},
		{"100", []string{"--oom-score-adj", "100"}, "cat /proc/self/oom_score_adj"},
		{"1024", []string{"--shm-size", "1m"}, "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2"},
		{"1024 drwx------", []string{"--tmpfs", "/small:size=1m,mode=700"}, "echo $(df -k /small | tail -1 | tr -s ' ' | cut -d' ' -f2) $(ls -ld /small | cut -c1-10)"},
		{"0", []string{"--cpuset-cpus", "0"}, "grep Cpus_allowed_list /proc/self/status | cut -f2"},
		{"init", []string{"--init"}, "grep -o 'init$' /proc/1/comm"},
	} {
		if e.remapped && slices.Contains(test.flags, "--device") {
			continue // without the right to make devices runtimes take the host's of the same name
		}
		args := append(append([]string{"run", "--rm"}, test.flags...), image, "sh", "-c", test.script)
		if o := e.try(args...); strings.TrimSpace(o.stdout) != test.want {
			e.t.Errorf("%v: %+v, want %q", test.flags, o, test.want)
		}
	}
}

// privileged is about containers that may trace the runtime, which protects its binary from them. Without any restriction
// they need a host whose processes may have all capabilities: neither runc nor crun starts such a container else.
func privileged(e *engine) {
	e.want("/dev/pts/0", "run", "--rm", "-t", "--cap-add", "SYS_PTRACE", image, "tty")
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		e.t.Fatal(err)
	}
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		e.t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(last)))
	if err != nil {
		e.t.Fatal(err)
	}
	if all := fmt.Sprintf("CapBnd:\t%016x\n", uint64(1)<<(n+1)-1); !strings.Contains(string(status), all) {
		e.t.Skip("this host's bounding set lacks capabilities")
	}
	e.want("0", "run", "--rm", "--privileged", image, "sh", "-c", "mount -t tmpfs x /tmp; echo $?")
	e.want("/dev/pts/0", "run", "--rm", "-t", "--privileged", image, "tty")
}

func life(e *engine) {
	e.begin("life")
	e.want("running", "inspect", "--format", "{{.State.Status}}", "life")
	pid, err := strconv.Atoi(e.must("inspect", "--format", "{{.State.Pid}}", "life"))
	if err != nil {
		e.t.Fatal(err)
	}
	if comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm"); err != nil || string(comm) != "sleep\n" {
		e.t.Errorf("the pid is that of %q, %v", comm, err)
	}
	e.must("kill", "life")
	e.want("137", "wait", "life")
	e.want("exited 137", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "life")
	e.must("start", "life")
	e.want("running", "inspect", "--format", "{{.State.Status}}", "life")
	e.must("restart", "-t", "0", "life")
	e.want("running", "inspect", "--format", "{{.State.Status}}", "life")
}

func execute(e *engine) {
	e.begin("exec")
	e.want("sleep", "exec", "exec", "cat", "/proc/1/comm")
	e.want("1000 /tmp there", "exec", "--user", "1000", "--workdir", "/tmp", "--env", "X=there", "exec", "sh", "-c", "echo $(id -u) $(pwd) $X")
	for status, command := range map[int]string{3: "exit 3", 137: "kill -9 $$", 0: "true"} {
		if o := e.try("exec", "exec", "sh", "-c", command); o.status != status {
			e.t.Errorf("%s: %+v, want %d", command, o, status)
		}
	}
	wantMissing := 126 // Debian's docker takes every failure of exec for that
	if e.isPodman() {
		wantMissing = 127
	}
	if o := e.try("exec", "exec", "no-such-program"); o.status != wantMissing {
		e.t.Errorf("no such program: %+v, want %d", o, wantMissing)
	}
	processes := e.must("top", "exec")
	if !strings.Contains(processes, "sleep 1000") {
		e.t.Errorf("top: %q", processes)
	}
}

func pause(e *engine) {
	e.begin("pause")
	e.must("pause", "pause")
	e.want("paused", "inspect", "--format", "{{.State.Status}}", "pause")
	if o := e.try("exec", "pause", "true"); o.status == 0 {
		e.t.Errorf("exec in a paused container: %+v", o)
	}
	e.must("unpause", "pause")
	e.want("running", "inspect", "--format", "{{.State.Status}}", "pause")
	e.want("on", "exec", "pause", "echo", "on")
}

func update(e *engine) {
	e.begin("update", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "40")
	limits := func(memory, pids string) {
		e.t.Helper()
		for file, want := range map[string]string{"memory": memory, "pids": pids} {
			if got := limitOf(e, "update", file); got != want {
				e.t.Errorf("%s is %s, want %s", file, got, want)
			}
		}
	}
	limits("67108864", "40")
	if !e.isPodman() { // its version 4.3 has update, but not with these flags
		e.must("update", "--memory", "128m", "--memory-swap", "256m", "--pids-limit", "50", "update")
		limits("134217728", "50")
	}
}

// limitOf finds a limit through the cgroup of the container's process.
func limitOf(e *engine, container, controller string) string {
	e.t.Helper()
	pid := e.must("inspect", "--format", "{{.State.Pid}}", container)
	content, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		e.t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		dir, file := "/sys/fs/cgroup/"+controller+parts[2], map[string]string{"memory": "memory.limit_in_bytes", "pids": "pids.max"}[controller]
		if parts[0] == "0" {
			dir, file = "/sys/fs/cgroup"+parts[2], controller+".max"
		} else if !slices.Contains(strings.Split(parts[1], ","), controller) {
			continue
		}
		if value, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			return strings.TrimSpace(string(value))
		}
	}
	return "not found"
}

func statuses(e *engine) {
	for status, command := range map[int][]string{
		0: {"true"}, 1: {"false"}, 42: {"sh", "-c", "exit 42"}, 143: {"sh", "-c", "sh -c 'kill -TERM $$'; exit $?"}, // not the first process, which has no such signal
		127: {"no-such-program"}, 126: {"/etc/passwd"},
	} {
		if o := e.try(append([]string{"run", "--rm", image}, command...)...); o.status != status {
			e.t.Errorf("%v: %+v, want %d", command, o, status)
		}
	}
	for program, status := range map[string]int{"/etc": 126, "/dev/null": 126, "/no/such": 127} {
		if o := e.try("run", "--rm", image, program); o.status != status {
			e.t.Errorf("%s: %+v, want %d", program, o, status)
		}
	}
}

func stop(e *engine) {
	e.must("run", "-d", "--name", "stop", image, "sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.1; done")
	e.t.Cleanup(func() { e.must("rm", "-f", "stop") })
	waitFor(e.t, "the program to be ready", func() bool { return e.must("logs", "stop") == "ready" })
	e.must("stop", "--time", "20", "stop")
	e.want("7", "inspect", "--format", "{{.State.ExitCode}}", "stop")
	e.want("ready\nbye", "logs", "stop")
}

func terminal(e *engine) {
	if got := e.must("run", "--rm", "-t", image, "sh", "-c", "tty; test -t 1 && echo yes"); strings.Fields(got)[0] != "/dev/console" && strings.Fields(got)[0] != "/dev/pts/0" || !strings.HasSuffix(got, "yes") {
		e.t.Errorf("run -t: %q", got)
	}
	e.begin("terminal")
	if got := e.must("exec", "-t", "terminal", "sh", "-c", "tty; test -t 0 && echo yes"); !strings.HasPrefix(got, "/dev/pts/") || !strings.HasSuffix(got, "yes") {
		e.t.Errorf("exec -t: %q", got)
	}
}

// memory runs out in a container, and its engine tells so.
func memory(e *engine) {
	o := e.try("run", "--name", "memory", "--memory", "32m", "--memory-swap", "32m", image, "sh", "-c", "head -c 100000000 /dev/zero | tail -c 90000000 >/dev/null; exit $?")
	e.t.Cleanup(func() { e.must("rm", "-f", "memory") })
	if o.status != 137 {
		e.t.Errorf("%+v", o)
	}
}
