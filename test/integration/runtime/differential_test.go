package runtime_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// peer is a runtime with a container in each state of its life, which have the same names with each runtime.
type peer struct {
	t                *testing.T
	binary, dir, log string
	containers       map[string]*container
	volatile         *strings.Replacer // what can't be the same twice
}

func newPeer(t *testing.T, binary string) *peer {
	t.Helper()
	t.Setenv("BERTH_TEST_RUNTIME", binary)
	p := &peer{t: t, binary: binary, dir: testenv.ShortDir(t), containers: map[string]*container{}}
	p.log = filepath.Join(p.dir, "log")
	same := []string{p.dir, "DIR"}
	for _, life := range []string{"created", "running", "paused", "stopped", "shared"} {
		c := p.begin(life)
		t.Cleanup(func() { // by then the environment names another runtime
			execute(t, exec.Command(binary, "--root", c.State, "delete", "--force", c.ID))
		})
		p.containers[life] = c
		same = append(same, c.Rootfs, "ROOTFS", strconv.Itoa(c.state().Pid), "PID")
	}
	p.containers["paused"].must("pause", "paused")
	p.containers["stopped"].must("kill", "stopped", "KILL")
	waitFor(t, "the container to stop", func() bool { return p.containers["stopped"].state().Status == "stopped" })
	for name, args := range map[string][]string{
		"prints": {"echo", "hello"}, "fails": {"sh", "-c", "exit 7"}, "dies": {"sh", "-c", "kill -9 $$"}, "lacks": {"nothing-there"}, "lacks-path": {"/nothing/there"},
		"directory": {"/etc"}, "data": {"/etc/passwd"}, "terminal": {"tty"},
	} {
		same = append(same, p.bundle(name, args).Rootfs, "ROOTFS")
	}
	p.volatile = strings.NewReplacer(same...)
	for _, name := range []string{"garbage", "empty"} {
		if err := os.MkdirAll(filepath.Join(p.dir, "state", name), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"state", "state.json"} { // ours and runc's
		if err := os.WriteFile(filepath.Join(p.dir, "state", "garbage", file), []byte("not JSON\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// bundle writes a bundle. Without a pid namespace of its own even the first process dies by SIGKILL.
func (p *peer) bundle(name string, args []string) *container {
	p.t.Helper()
	c := newContainer(p.t, args...)
	c.Bundle = filepath.Join(p.dir, name)
	if err := os.Mkdir(c.Bundle, 0o755); err != nil {
		p.t.Fatal(err)
	}
	c.Spec.Linux.CgroupsPath = "/berth-test/" + filepath.Base(p.dir) + "-" + name
	c.Spec.Process.Terminal = name == "terminal"
	if name == "dies" {
		c.Spec.Linux.Namespaces = withoutNamespace(c.Spec, specs.PIDNamespace)
	}
	c.writeConfig()
	return c
}

// begin makes a container.
func (p *peer) begin(life string) *container {
	p.t.Helper()
	c := newContainer(p.t, "sleep", "1000")
	c.ID, c.State, c.Bundle = life, filepath.Join(p.dir, "state"), filepath.Join(p.dir, life)
	if err := os.Mkdir(c.Bundle, 0o755); err != nil {
		p.t.Fatal(err)
	}
	c.Spec.Linux.CgroupsPath = "/berth-test/" + filepath.Base(p.dir) + "-" + life
	c.Spec.Annotations = map[string]string{"colour": "<blue>"}
	switch life {
	case "created":
		c.writeConfig()
		c.leave("create", "--bundle", c.Bundle, c.ID)
		return c
	case "shared":
		c.Spec.Linux.Namespaces = withoutNamespace(c.Spec, specs.PIDNamespace)
		c.shell("sleep 1001 & exec sleep 1000")
	}
	c.start()
	return c
}

// perform executes a command line and returns what came of it, without what can't be the same twice.
func (p *peer) perform(line []string) (outcome, []string) {
	p.t.Helper()
	_ = os.Remove(p.log)
	command := exec.Command(p.binary, append([]string{"--root", filepath.Join(p.dir, "state"), "--log", p.log, "--log-format", "json"}, line...)...)
	command.Dir = p.dir
	r := execute(p.t, command)
	r.Stdout, r.Stderr = p.normal(r.Stdout), p.normal(r.Stderr)
	return r, p.levels()
}

func (p *peer) normal(text string) string {
	text = p.volatile.Replace(text)
	for pattern, name := range map[string]string{
		`\d{4}-\d\d-\d\dT[\d:.]+(Z|\+\d\d:\d\d) *`: "TIME ", `"ociVersion":( ?)"[^"]*"`: `"ociVersion":$1"VERSION"`, ` \d\d:\d\d `: " CLOCK ", `(?m)^ +| +$`: "", `  +`: "  ",
	} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, name)
	}
	return text
}

// levels lists the levels of the log's entries, which are as programs expect them.
func (p *peer) levels() []string {
	p.t.Helper()
	var levels []string
	content, _ := os.ReadFile(p.log)
	for line := range strings.Lines(string(content)) {
		var entry struct {
			Level, Msg string
			Time       time.Time
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Msg == "" || entry.Time.IsZero() {
			p.t.Errorf("%s has written %q to the log: %v", p.binary, line, err)
		}
		levels = append(levels, entry.Level)
	}
	return levels
}

// TestAnswersAreRuncs gives runc and this runtime the same command lines, in order, and compares what programs look at:
// the status, the output, and whether there is an error on stderr and in the log. Its words are each one's own. A line
// may say why the output or the status differs on purpose.
func TestAnswersAreRuncs(t *testing.T) {
	const (
		usage  = "runc prints its help to stdout, where a program may expect data"
		leaks  = "runc hands over descriptors of its own, if the caller has not as many as it says"
		stuck  = "with runc nothing gets rid of a container whose state is damaged"
		dashes = "runc takes two dashes behind the ID for a program"
	)
	ours, theirs := newPeer(t, testenv.Binary(t, "berth-runtime")), newPeer(t, testenv.Peer(t, "runc"))
	for _, test := range []struct{ line, differs string }{
		{line: "state created"},
		{line: "state running"},
		{line: "state paused"},
		{line: "state stopped"},
		{line: "state absent"},
		{line: "state empty"},
		{line: "state garbage"},
		{line: "state", differs: usage},
		{line: "state a b", differs: usage},
		{line: "list"},
		{line: "list -q"},
		{line: "list --quiet=true"},
		{line: "list -f json"},
		{line: "list --format=json"},
		{line: "list -format table"},
		{line: "list -f xml"},
		{line: "list more", differs: usage},
		{line: "list --unknown", differs: usage},
		{line: "start running"},
		{line: "start paused"},
		{line: "start stopped"},
		{line: "start absent"},
		{line: "start", differs: usage},
		{line: "pause paused"},
		{line: "pause stopped"},
		{line: "pause absent"},
		{line: "resume running"},
		{line: "resume stopped"},
		{line: "pause created"},
		{line: "state created"},
		{line: "start created"},
		{line: "resume created"},
		{line: "state created"},
		{line: "exec running cat /proc/1/comm"},
		{line: "exec running sh -c exit${IFS}7"},
		{line: "exec running sh -c kill${IFS}-9${IFS}$$"},
		{line: "exec running -- echo -d", differs: dashes},
		{line: "exec -- running echo -d"},
		{line: "exec -e A=1 -e B=2,3 running sh -c echo${IFS}$A$B"},
		{line: "exec --env=A=x=y running sh -c echo${IFS}$A"},
		{line: "exec -u 1:2 -g 3 -g 4 running id -G"},
		{line: "exec --user=5 running id -u"},
		{line: "exec --cwd /proc running pwd"},
		{line: "exec --tty=false running true"},
		{line: "exec --no-new-privs=false running grep NoNewPrivs /proc/self/status"},
		{line: "exec running grep NoNewPrivs /proc/self/status"},
		{line: "exec --cap CAP_NET_ADMIN --cap CAP_SYS_TIME running grep Cap /proc/self/status"},
		{line: "exec running absent"},
		{line: "exec running /absent"},
		{line: "exec running /etc"},
		{line: "exec --cwd relative running true"},
		{line: "exec --cwd /absent running true"},
		{line: "exec -u root running true"},
		{line: "exec -g -1 running true"},
		{line: "exec running"},
		{line: "exec absent true"},
		{line: "exec stopped true"},
		{line: "exec paused true"},
		{line: "exec -d --pid-file pid running sleep 1"},
		{line: "exec -t -d running true"},
		{line: "exec --console-socket sock running true"},
		{line: "exec -p absent running"},
		{line: "exec --preserve-fds 9 running true"},
		{line: "exec", differs: usage},
		{line: "exec --unknown running true", differs: usage},
		{line: "exec created echo early"},
		{line: "ps running"},
		{line: "ps -f json running"},
		{line: "ps --format=table running -o pid,comm"},
		{line: "ps running -o comm"},
		{line: "ps running --unknown"},
		{line: "ps -f xml running"},
		{line: "ps stopped"},
		{line: "ps -f json stopped"},
		{line: "ps absent"},
		{line: "ps", differs: usage},
		{line: "events --stats stopped"},
		{line: "events --interval 0s running"},
		{line: "events --interval -1s running"},
		{line: "events --interval soon running", differs: usage},
		{line: "events absent"},
		{line: "events", differs: usage},
		{line: "update running"},
		{line: "update --memory 64m running"},
		{line: "update --memory 1.5g running"},
		{line: "update --memory 64MiB running"},
		{line: "update --memory -1 running"},
		{line: "update --memory many running"},
		{line: "update --memory 4k running"},
		{line: "update --kernel-memory 1m running"},
		{line: "update --kernel-memory-tcp 1m running"},
		{line: "update --cpu-share -1 running"},
		{line: "update --cpu-quota many running"},
		{line: "update --cpu-quota -1 running"},
		{line: "update --cpu-period 50000 running"},
		{line: "update --cpu-quota= running"},
		{line: "update --blkio-weight 70000 running"},
		{line: "update --pids-limit -1 running"},
		{line: "update --pids-limit 0 running"},
		{line: "update --pids-limit many running", differs: usage},
		{line: "update --cpuset-cpus 99 running"},
		{line: "update --cpuset-cpus 0 --cpuset-mems 0 running"},
		{line: "update --l3-cache-schema L3:0=1 running"},
		{line: "update -r absent running"},
		{line: "update --pids-limit 5 paused"},
		{line: "update --pids-limit 5 stopped"},
		{line: "update --pids-limit 5 absent"},
		{line: "update --pids-limit 5", differs: usage},
		{line: "kill running 0"},
		{line: "kill running 99"},
		{line: "kill running -5"},
		{line: "kill running NONE"},
		{line: "kill running SIGNONE"},
		{line: "kill running sigwinch"},
		{line: "kill running 28"},
		{line: "kill stopped"},
		{line: "kill --all stopped KILL"},
		{line: "kill absent"},
		{line: "kill", differs: usage},
		{line: "kill running 1 2", differs: usage},
		{line: "create running --bundle running"},
		{line: "create a/b --bundle running"},
		{line: "create .. --bundle running"},
		{line: "create fresh --bundle absent"},
		{line: "create", differs: usage},
		{line: "run -b prints fresh"}, {line: "run fresh --bundle=prints"}, {line: "run -bundle prints -- fresh"}, {line: "run --keep -b fails fresh"}, {line: "state fresh"},
		{line: "run -b prints fresh"}, {line: "delete fresh"}, {line: "run --no-subreaper -b dies fresh"}, {line: "run -b lacks fresh"}, {line: "run -b lacks-path fresh"},
		{line: "run -b directory fresh"}, {line: "run -b data fresh"}, {line: "create -b lacks fresh"}, {line: "state fresh"}, {line: "create -b terminal fresh"},
		{line: "run -d -b terminal fresh"}, {line: "run -d --console-socket sock -b prints fresh"}, {line: "create --pid-file absent/pid -b prints fresh"}, {line: "state fresh"},
		{line: "run --preserve-fds 2 -b prints fresh", differs: leaks}, {line: "run --preserve-fds many -b prints fresh", differs: usage}, {line: "run --pidfd-socket", differs: usage},
		{line: "run fresh --bundle absent"},
		{line: "run --console-socket sock --bundle stopped fresh"},
		{line: "run a b", differs: usage},
		{line: "spec more", differs: usage},
		{line: "spec -b running"},
		{line: "spec --bundle absent"},
		{line: "features more", differs: usage},
		{line: "checkpoint", differs: usage},
		{line: "checkpoint absent"},
		{line: "restore", differs: usage},
		{line: "unknown"},
		{line: "help absent"},
		{line: "run -unknown", differs: usage},
		{line: "delete running"},
		{line: "delete paused"},
		{line: "delete absent"},
		{line: "delete -f absent"},
		{line: "delete", differs: usage},
		{line: "delete empty"},
		{line: "state empty"},
		{line: "delete garbage"},
		{line: "delete -f garbage", differs: stuck},
		{line: "kill shared KILL"},
		{line: "kill paused KILL"},
		{line: "delete created"},
		{line: "delete stopped"},
		{line: "delete --force running"},
		{line: "delete --force=true shared"},
		{line: "list -q"},
	} {
		line := strings.Fields(test.line)
		for i := range line {
			line[i] = strings.ReplaceAll(line[i], "${IFS}", " ")
		}
		got, ourLevels := ours.perform(line)
		want, theirLevels := theirs.perform(line)
		same := got.Status == want.Status && got.Stdout == want.Stdout
		if same == (test.differs != "") {
			t.Errorf("%s (%s):\nours:   %d %q %q\nrunc's: %d %q %q", test.line, test.differs, got.Status, got.Stdout, got.Stderr, want.Status, want.Stdout, want.Stderr)
		}
		if test.differs != "" && test.differs != usage {
			continue
		}
		if (got.Stderr == "") != (want.Stderr == "") || failed(ourLevels) != failed(theirLevels) {
			t.Errorf("%s: the errors are\n%q in the log %v, and runc's\n%q in the log %v", test.line, got.Stderr, ourLevels, want.Stderr, theirLevels)
		}
	}
}

func failed(levels []string) bool { return len(levels) > 0 && levels[len(levels)-1] == "error" }
