package runtime_test

import (
	_ "embed"
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
	pids             *regexp.Regexp    // the same, where they are numbers of their own and no part of a time
}

func newPeer(t *testing.T, binary string) *peer {
	t.Helper()
	t.Setenv("BERTH_TEST_RUNTIME", binary)
	p := &peer{t: t, binary: binary, dir: testenv.ShortDir(t), containers: map[string]*container{}}
	p.log = filepath.Join(p.dir, "log")
	same, pids := []string{p.dir, "DIR"}, []string{}
	for _, life := range []string{"created", "running", "paused", "stopped", "shared"} {
		c := p.begin(life)
		t.Cleanup(func() { // by then the environment names another runtime
			testenv.Execute(t, exec.Command(binary, "--root", c.State, "delete", "--force", c.ID))
		})
		p.containers[life] = c
		same, pids = append(same, c.Rootfs, "ROOTFS"), append(pids, strconv.Itoa(c.state().Pid))
	}
	p.containers["paused"].must("pause", "paused")
	p.containers["stopped"].must("kill", "stopped", "KILL")
	testenv.WaitFor(t, "the container to stop", func() bool { return p.containers["stopped"].state().Status == "stopped" })
	for name, args := range map[string][]string{
		"prints": {"echo", "hello"}, "fails": {"sh", "-c", "exit 7"}, "dies": {"sh", "-c", "kill -9 $$"}, "lacks": {"nothing-there"}, "lacks-path": {"/nothing/there"},
		"directory": {"/etc"}, "data": {"/etc/passwd"}, "terminal": {"tty"},
	} {
		same = append(same, p.bundle(name, args).Rootfs, "ROOTFS")
	}
	p.volatile, p.pids = strings.NewReplacer(same...), regexp.MustCompile(`\b(`+strings.Join(pids, "|")+`)\b`)
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
	c.Spec.Linux.CgroupsPath = testenv.CgroupParent + "/" + filepath.Base(p.dir) + "-" + name
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
	c.Spec.Linux.CgroupsPath = testenv.CgroupParent + "/" + filepath.Base(p.dir) + "-" + life
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
func (p *peer) perform(line []string) (testenv.Outcome, []string) {
	p.t.Helper()
	_ = os.Remove(p.log)
	command := exec.Command(p.binary, append([]string{"--root", filepath.Join(p.dir, "state"), "--log", p.log, "--log-format", "json"}, line...)...)
	command.Dir = p.dir
	r := testenv.Execute(p.t, command)
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
	text = regexp.MustCompile(`\d+ +CLOCK +(\S+) +\d\d:\d\d:\d\d`).ReplaceAllString(text, "C CLOCK $1 USED") // more than none where all is slow
	return p.pids.ReplaceAllString(text, "PID")
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

//go:embed testdata/answers
var answers string

// reasons are what answers says by a word.
func reasons() map[string]string {
	return map[string]string{
		"usage":  "runc prints its help to stdout, where a program may expect data",
		"leaks":  "runc hands over descriptors of its own, if the caller has not as many as it says",
		"stuck":  "with runc nothing gets rid of a container whose state is damaged",
		"dashes": "runc takes two dashes behind the ID for a program",
	}
}

// TestAnswersAreRuncs gives runc and this runtime the same command lines, in order, and compares what programs look at:
// the status, the output, and whether there is an error on stderr and in the log. Its words are each one's own. A line
// may say why the output or the status differs on purpose.
func TestAnswersAreRuncs(t *testing.T) { compareAnswers(t, testenv.Peer(t, "runc")) }

// TestAnswersAreTheNewestRuncs compares with a runc of today: Debian's is of 2023.
func TestAnswersAreTheNewestRuncs(t *testing.T) { compareAnswers(t, testenv.NewestPeer(t, "runc")) }

func compareAnswers(t *testing.T, runc string) {
	t.Helper()
	ours, theirs := newPeer(t, testenv.Binary(t, "berth-runtime")), newPeer(t, runc)
	for test := range strings.Lines(answers) {
		if strings.HasPrefix(test, "#") {
			continue
		}
		command, word, differs := strings.Cut(strings.TrimSuffix(test, "\n"), "\t")
		if _, known := reasons()[word]; known != differs {
			t.Errorf("%q: no reason is called %q", command, word)
		}
		line := strings.Fields(command)
		for i := range line {
			line[i] = strings.ReplaceAll(line[i], "${IFS}", " ")
		}
		got, ourLevels := ours.perform(line)
		want, theirLevels := theirs.perform(line)
		same := got.Status == want.Status && got.Stdout == want.Stdout
		if same == differs {
			t.Errorf("%s (%s):\nours:   %d %q %q\nrunc's: %d %q %q", command, reasons()[word], got.Status, got.Stdout, got.Stderr, want.Status, want.Stdout, want.Stderr)
		}
		if differs && word != "usage" {
			continue
		}
		// What succeeded may have been logged as an error all the same: runc's delete does it on cgroup v2.
		if (got.Stderr == "") != (want.Stderr == "") || want.Status != 0 && failed(ourLevels) != failed(theirLevels) {
			t.Errorf("%s: the errors are\n%q in the log %v, and runc's\n%q in the log %v", command, got.Stderr, ourLevels, want.Stderr, theirLevels)
		}
	}
}

func failed(levels []string) bool { return len(levels) > 0 && levels[len(levels)-1] == "error" }
