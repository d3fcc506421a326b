package runtime_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// execJSON executes a process in the container that is described by a file.
func (c *container) execJSON(process specs.Process, flags ...string) testenv.Outcome {
	c.t.Helper()
	file := filepath.Join(c.Bundle, "process.json")
	writeJSON(c.t, file, process)
	return c.verb(append(append([]string{"exec", "--process", file}, flags...), c.ID)...)
}

// schedulers are the policies, with what the kernel is asked for.
func schedulers() map[string]struct {
	given specs.Scheduler
	want  unix.SchedAttr
} {
	type entry = struct {
		given specs.Scheduler
		want  unix.SchedAttr
	}
	const ms = 1e6
	return map[string]entry{
		"other":    {specs.Scheduler{Policy: specs.SchedOther, Nice: -5}, unix.SchedAttr{Policy: unix.SCHED_NORMAL, Nice: -5}},
		"batch":    {specs.Scheduler{Policy: specs.SchedBatch, Nice: 19}, unix.SchedAttr{Policy: unix.SCHED_BATCH, Nice: 19}},
		"idle":     {specs.Scheduler{Policy: specs.SchedIdle}, unix.SchedAttr{Policy: unix.SCHED_IDLE}},
		"fifo":     {specs.Scheduler{Policy: specs.SchedFIFO, Priority: 7}, unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: 7}},
		"rr":       {specs.Scheduler{Policy: specs.SchedRR, Priority: 99}, unix.SchedAttr{Policy: unix.SCHED_RR, Priority: 99}},
		"reset":    {specs.Scheduler{Policy: specs.SchedRR, Priority: 1, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}, unix.SchedAttr{Policy: unix.SCHED_RR, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}},
		"deadline": {specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1 * ms, Deadline: 20 * ms, Period: 30 * ms}, unix.SchedAttr{Policy: unix.SCHED_DEADLINE, Runtime: 1 * ms, Deadline: 20 * ms, Period: 30 * ms}},
		"deadline with flags": {
			specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 2 * ms, Deadline: 20 * ms, Period: 30 * ms, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagReclaim, specs.SchedFlagDLOverrun}},
			unix.SchedAttr{Policy: unix.SCHED_DEADLINE, Runtime: 2 * ms, Deadline: 20 * ms, Period: 30 * ms, Flags: unix.SCHED_FLAG_RECLAIM | unix.SCHED_FLAG_DL_OVERRUN},
		},
		"kept": {specs.Scheduler{Policy: specs.SchedBatch, Nice: 3, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagKeepPolicy, specs.SchedFlagKeepParams}}, unix.SchedAttr{Policy: unix.SCHED_NORMAL}},
	}
}

// TestScheduler asks the kernel how it schedules the container's process, and another that exec has started.
func TestScheduler(t *testing.T) {
	for name, test := range schedulers() {
		t.Run(name, func(t *testing.T) {
			scheduling := func(pid int) unix.SchedAttr {
				t.Helper()
				got, err := unix.SchedGetAttr(pid, 0)
				if err != nil {
					t.Fatal(err)
				}
				got.Size, got.Util_min, got.Util_max = 0, 0, 0
				if got.Policy <= unix.SCHED_BATCH || got.Policy == unix.SCHED_IDLE {
					got.Runtime = 0 // where Linux 6.12 and later have a time slice
				}
				return *got
			}
			c := newContainer(t, "sleep", "1000")
			c.Spec.Process.Scheduler = &test.given
			c.writeConfig()
			groups, _ := filepath.Glob("/sys/fs/cgroup/cpu*/cpu.rt_runtime_us")
			if realtime := test.want.Priority > 0; realtime && len(groups) > 0 {
				t.Skip("a cgroup needs realtime of its parent's, and that has none")
			}
			if err := exec.Command("chrt", chrt(test.want)...).Run(); err != nil {
				t.Skipf("nobody may do that here: %v", err)
			}
			c.start()
			wantEqual(t, scheduling(c.state().Pid), test.want)
			pidFile := filepath.Join(c.Bundle, "pid")
			process := specs.Process{Args: []string{"sleep", "1001"}, Cwd: "/", Env: c.Spec.Process.Env, Scheduler: &test.given}
			writeJSON(t, filepath.Join(c.Bundle, "process.json"), process)
			c.leave("exec", "--detach", "--pid-file", pidFile, "--process", filepath.Join(c.Bundle, "process.json"), c.ID)
			var pid int
			if _, err := fmt.Sscan(readFile(t, pidFile), &pid); err != nil {
				t.Fatal(err)
			}
			wantEqual(t, scheduling(pid), test.want)
		})
	}
}

// chrt are arguments with which util-linux' program does the same.
func chrt(want unix.SchedAttr) []string {
	flag := map[uint32]string{unix.SCHED_NORMAL: "-o", unix.SCHED_FIFO: "-f", unix.SCHED_RR: "-r", unix.SCHED_BATCH: "-b", unix.SCHED_IDLE: "-i", unix.SCHED_DEADLINE: "-d"}[want.Policy]
	args := []string{flag}
	if want.Policy == unix.SCHED_DEADLINE {
		args = append(args, "-T", fmt.Sprint(want.Runtime), "-D", fmt.Sprint(want.Deadline), "-P", fmt.Sprint(want.Period))
	}
	return append(args, fmt.Sprint(want.Priority), "true")
}

func TestSchedulerRefuses(t *testing.T) {
	for want, scheduler := range map[string]specs.Scheduler{
		"process.scheduler.nice: -21 is not from -20 to 19":                              {Policy: specs.SchedOther, Nice: -21},
		"process.scheduler.priority: only SCHED_FIFO and SCHED_RR have a priority":       {Policy: specs.SchedBatch, Priority: 1},
		"process.scheduler: only SCHED_DEADLINE has a runtime, deadline and period":      {Policy: specs.SchedRR, Priority: 1, Period: 1},
		`process.scheduler.flags[0]: "SCHED_FLAG_X" is none of SCHED_FLAG_RESET_ON_FORK`: {Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{"SCHED_FLAG_X"}},
		`process.scheduler.policy: "" is none of SCHED_OTHER`:                            {},
		"cannot set process.scheduler: invalid argument":                                 {Policy: specs.SchedISO},
		"cannot set process.scheduler: invalid argument ":                                {Policy: specs.SchedDeadline, Runtime: 2, Deadline: 1, Period: 1},
	} {
		c := newContainer(t, "true")
		c.Spec.Process.Scheduler = &scheduler
		c.refused(strings.TrimSpace(want))
	}
}

func TestIOPriority(t *testing.T) {
	for want, priority := range map[string]specs.LinuxIOPriority{
		"idle": {Class: specs.IOPRIO_CLASS_IDLE, Priority: 4}, "best-effort: prio 0": {Class: specs.IOPRIO_CLASS_BE}, "realtime: prio 7": {Class: specs.IOPRIO_CLASS_RT, Priority: 7},
	} {
		c := newContainer(t).shell("ionice -p $$; exec sleep 1000")
		c.Spec.Process.IOPriority = &priority
		c.shell("ionice -p $$")
		wantContains(t, c.output(), want)
		plain := sleeping(t, nil)
		wantContains(t, plain.execJSON(specs.Process{Args: []string{"sh", "-c", "ionice -p $$"}, Cwd: "/", Env: c.Spec.Process.Env, IOPriority: &priority}).Stdout, want)
	}
}

// TestExecFields shows the fields of a process for one that exec starts.
func TestExecFields(t *testing.T) {
	c := sleeping(t, nil)
	for name, test := range processTests() {
		if name == "first process" {
			continue
		}
		process := *c.Spec.Process
		process.Args = []string{"sh", "-c", test.script}
		test.change(&process)
		if r := c.execJSON(process); r.Status != 0 || strings.TrimSpace(r.Stdout) != test.want {
			t.Errorf("%s: %+v, want %q", name, r, test.want)
		}
	}
}

// TestExecInherits: a process that says nothing of its rights and limits has those of the container's.
func TestExecInherits(t *testing.T) {
	umask, score := uint32(0o037), 456
	chown := []string{"CAP_CHOWN"}
	c := sleeping(t, func(spec *specs.Spec) {
		p := spec.Process
		p.User.Umask, p.OOMScoreAdj = &umask, &score
		p.Capabilities = &specs.LinuxCapabilities{Bounding: chown, Effective: chown, Permitted: chown}
		p.Scheduler, p.IOPriority = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 3}, &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 1}
		p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 55, Hard: 66}}
	})
	script := "umask; cat /proc/self/oom_score_adj; grep CapEff /proc/self/status; cut -d' ' -f19,41 /proc/self/stat; ionice -p $$; ulimit -Sn; ulimit -Hn"
	r := c.execJSON(specs.Process{Args: []string{"sh", "-c", script}, Cwd: "/", Env: c.Spec.Process.Env})
	wantEqual(t, r.Stdout, "0037\n456\nCapEff:\t0000000000000001\n3 3\nbest-effort: prio 1\n55\n66\n")
}

// TestEnvironmentHasEachNameOnce: a program would take the first of two, and the last is meant.
func TestEnvironmentHasEachNameOnce(t *testing.T) {
	show := []string{"sh", "-c", "tr '\\0' '\\n' < /proc/$$/environ | grep -v ^PATH"}
	c := newContainer(t, show...)
	c.Spec.Process.Env = []string{"PATH=/bin", "A=1", "HOME=", "B=2", "A=3", "AB=4"}
	wantEqual(t, c.output(), "B=2\nA=3\nAB=4\nHOME=/root\n")
	running := sleeping(t, func(spec *specs.Spec) { spec.Process.Env = []string{"PATH=/bin", "A=1", "B=2"} })
	wantEqual(t, running.must(append([]string{"exec", "--env", "A=4", "--env", "C=", running.ID}, show...)...), "B=2\nA=4\nC=\nHOME=/root\n")
}

// TestLimitOfOpenFiles: the container has what the caller has, and not what Go takes for the runtime, whichever way the
// runtime comes to start it.
func TestLimitOfOpenFiles(t *testing.T) {
	for name, capabilities := range map[string][]string{"plain": nil, "from a read-only handle": {"CAP_SYS_PTRACE"}} {
		c := newContainer(t).shell("ulimit -Sn; ulimit -Hn").grant(capabilities...)
		c.Spec.Process.Rlimits = nil
		c.writeConfig()
		command := c.command("run", "--bundle", c.Bundle, c.ID)
		ran := testenv.Execute(t, exec.Command("sh", append([]string{"-c", `ulimit -Sn 77; ulimit -Hn 99; exec "$@"`, "sh"}, command.Args...)...))
		if ran.Stdout != "77\n99\n" {
			t.Errorf("%s: %+v", name, ran)
		}
	}
}

// TestAllLimits sets every limit to a value of its own and reads them as the kernel has them.
func TestAllLimits(t *testing.T) {
	limits := map[string]string{
		"CPU": "Max cpu time", "FSIZE": "Max file size", "DATA": "Max data size", "STACK": "Max stack size", "CORE": "Max core file size",
		"RSS": "Max resident set", "NPROC": "Max processes", "NOFILE": "Max open files", "MEMLOCK": "Max locked memory", "AS": "Max address space",
		"LOCKS": "Max file locks", "SIGPENDING": "Max pending signals", "MSGQUEUE": "Max msgqueue size", "NICE": "Max nice priority",
		"RTPRIO": "Max realtime priority", "RTTIME": "Max realtime timeout",
	}
	var own map[string][]string
	parse := func(text string) map[string][]string {
		values := map[string][]string{}
		for name, title := range limits {
			for line := range strings.Lines(text) {
				if rest, ok := strings.CutPrefix(line, title); ok {
					values[name] = strings.Fields(rest)[:2]
				}
			}
		}
		return values
	}
	own = parse(readFile(t, "/proc/self/limits"))
	c := newContainer(t, "cat", "/proc/self/limits")
	c.Spec.Process.Rlimits = nil
	want := map[string][]string{}
	for name := range limits {
		soft, hard := uint64(1<<30), uint64(1<<30+1)
		if text := own[name][1]; text != "unlimited" { // which not every root may raise
			if _, err := fmt.Sscan(text, &hard); err != nil {
				t.Fatal(err)
			}
			soft = hard / 2
		}
		c.Spec.Process.Rlimits = append(c.Spec.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_" + name, Soft: soft, Hard: hard})
		want[name] = []string{fmt.Sprint(soft), fmt.Sprint(hard)}
	}
	if got := parse(c.output()); !reflect.DeepEqual(got, want) {
		t.Errorf("limits %v, want %v", got, want)
	}
	c.Spec.Process.Rlimits = append(c.Spec.Process.Rlimits, c.Spec.Process.Rlimits[0])
	c.refused("process.rlimits[16].type: " + c.Spec.Process.Rlimits[0].Type + " is given twice")
}

// TestCapabilitiesToGive: what the runtime has not got itself the container can't have, and hears of it.
func TestCapabilitiesToGive(t *testing.T) {
	names := []string{"CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_AUDIT_READ", "CAP_OF_THE_FUTURE"}
	c := newContainer(t).grant(names...).shell("grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2 | sort -u")
	r := c.run()
	const mask = 1 | 1<<unix.CAP_SYS_RESOURCE | 1<<unix.CAP_AUDIT_READ
	have := ofHost(t, mask)
	wantEqual(t, r.Stdout, have+"\n")
	wantContains(t, r.Stderr, "warning: process.capabilities: there is no CAP_OF_THE_FUTURE")
	if complete := have == fmt.Sprintf("%016x", mask); strings.Contains(r.Stderr, "CAP_SYS_RESOURCE can't be granted here") == complete {
		t.Errorf("of %s: %s", have, r.Stderr)
	}
	mapUsers(t, c) // where there are all
	wantEqual(t, c.output(), fmt.Sprintf("%016x\n", mask))
}

// TestAmbientCapabilitiesThatCannotBeRaised: the kernel wants them permitted and inheritable, and the caller hears of it.
func TestAmbientCapabilitiesThatCannotBeRaised(t *testing.T) {
	c := newContainer(t, "grep", "CapAmb", "/proc/self/status")
	c.Spec.Process.User.UID = 1000
	both, one := []string{"CAP_CHOWN", "CAP_KILL"}, []string{"CAP_CHOWN"}
	c.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: both, Permitted: both, Effective: both, Inheritable: one, Ambient: both}
	r := c.run()
	wantEqual(t, r.Stdout, "CapAmb:\t0000000000000001\n")
	wantContains(t, r.Stderr, "warning: process.capabilities.ambient: CAP_KILL can't be raised: permitted and inheritable lack it")
	if strings.Contains(r.Stderr, "CAP_CHOWN") {
		t.Errorf("a capability that is raised: %s", r.Stderr)
	}
}

// TestExecConsoleSize: the size is that of the terminal that the process gets, and is nothing without one.
func TestExecConsoleSize(t *testing.T) {
	c := sleeping(t, nil)
	process := specs.Process{Args: []string{"stty", "size"}, Cwd: "/", Env: c.Spec.Process.Env, Terminal: true, ConsoleSize: &specs.Box{Height: 21, Width: 99}}
	path, receive := consoleSocket(t, c)
	file := filepath.Join(c.Bundle, "process.json")
	writeJSON(t, file, process)
	c.leave("exec", "--detach", "--console-socket", path, "--process", file, c.ID)
	terminal := receive()
	defer terminal.Close()
	wantEqual(t, readAll(t, terminal), "21 99\n")
	process.Terminal = false
	process.Args = []string{"sh", "-c", "test -t 1 || echo no terminal"}
	wantEqual(t, c.execJSON(process).Stdout, "no terminal\n")
}
