package runtime_test

import (
	_ "embed"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

//go:embed testdata/answers-rootless
var rootlessAnswers string

// newRootlessPeer returns a runtime with bundles of an ordinary user.
func newRootlessPeer(t *testing.T, binary string) (*rootless, *peer) {
	t.Helper()
	c := newRootless(t)
	c.binary = binary
	root := specs.User{}
	for name, bundle := range map[string]struct {
		user specs.User
		args []string
	}{
		"sleeps": {root, []string{"sleep", "1000"}}, "prints": {root, []string{"echo", "hello"}}, "fails": {root, []string{"sh", "-c", "exit 7"}},
		"lacks": {root, []string{"nothing-there"}}, "writes": {root, []string{"touch", "/new"}}, "limited": {root, []string{"true"}}, "scored": {root, []string{"cat", "/proc/self/oom_score_adj"}},
		"looks":   {root, []string{"sh", "-c", "id; cat /proc/self/*id_map /proc/self/setgroups; grep -E 'Cap|NoNew|Groups|Seccomp' /proc/self/status; ls -ln / /dev | sed '/ proc$/s/ *[0-9]*//'; hostname; ulimit -n; env | sort"}},
		"another": {specs.User{UID: 5, GID: 6}, []string{"id"}}, "grouped": {specs.User{AdditionalGids: []uint32{7}}, []string{"id"}}, "bare": {root, []string{"true"}},
		"locked": {root, []string{"true"}}, "mapped": {root, []string{"true"}},
	} {
		spec := c.spec
		spec.Process = pointer(*c.spec.Process)
		spec.Linux = pointer(*c.spec.Linux)
		spec.Process.User, spec.Process.Args = bundle.user, bundle.args
		switch name {
		case "limited":
			spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: pointer(int64(5))}}
		case "scored":
			spec.Process.OOMScoreAdj = pointer(500)
		case "locked", "mapped":
			options := map[string][]string{"locked": {"bind", "suid"}, "mapped": {"bind", "idmap"}}[name]
			spec.Mounts = append(slices.Clone(spec.Mounts), specs.Mount{Destination: "/tmp", Type: "bind", Source: filepath.Join(c.Bundle, "nosuid"), Options: options})
		case "bare":
			spec.Linux.Namespaces, spec.Linux.UIDMappings, spec.Linux.GIDMappings = withoutNamespace(&spec, specs.UserNamespace), nil, nil
		}
		dir := filepath.Join(c.Bundle, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		writeJSON(t, filepath.Join(dir, "config.json"), spec)
		if err := os.Chown(dir, 1000, 1000); err != nil { // for spec
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { c.as("delete", "--force", "one") })
	// Of the names only the programs' own are not the same.
	return c, &peer{t: t, volatile: strings.NewReplacer(c.Bundle, "DIR", c.Rootfs, "ROOTFS"), pids: regexp.MustCompile(`\b\d{3,}\b`)}
}

// answer executes a command line. What it leaves running holds the files of its output.
func (c *rootless) answer(p *peer, line []string) testenv.Outcome {
	c.t.Helper()
	var files [2]*os.File
	for i := range files {
		file, err := os.Create(filepath.Join(c.Bundle, "output"))
		if err != nil {
			c.t.Fatal(err)
		}
		defer file.Close()
		if err := os.Remove(file.Name()); err != nil {
			c.t.Fatal(err)
		}
		files[i] = file
	}
	command := asUser(exec.Command(c.binary, line...), c.Bundle)
	command.Stdout, command.Stderr = files[0], files[1]
	if err := command.Run(); err != nil && command.ProcessState == nil {
		c.t.Fatal(err)
	}
	var texts [2]string
	for i, file := range files {
		content, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
		if err != nil {
			c.t.Fatal(err)
		}
		texts[i] = p.normal(string(content))
	}
	return testenv.Outcome{Stdout: texts[0], Stderr: texts[1], Status: command.ProcessState.ExitCode()}
}

// TestRootlessAnswersAreRuncs is TestAnswersAreRuncs for an ordinary user without cgroups.
func TestRootlessAnswersAreRuncs(t *testing.T) {
	compareRootlessAnswers(t, testenv.Peer(t, "runc"), nil)
}

// TestRootlessAnswersAreTheNewestRuncs copies runc to where every user may execute it.
func TestRootlessAnswersAreTheNewestRuncs(t *testing.T) {
	content, err := os.ReadFile(testenv.NewestPeer(t, "runc"))
	if err != nil {
		t.Fatal(err)
	}
	dir := testenv.ShortDir(t)
	copied := filepath.Join(dir, "runc")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(copied, content, 0o755)); err != nil {
		t.Fatal(err)
	}
	compareRootlessAnswers(t, copied, map[string]string{
		"events --stats one": "runc 1.5 leaves out numbers that are 0, which Debian's has",
	})
}

// compareRootlessAnswers compares with a runc, whose answers differ for the reasons given and for no others.
func compareRootlessAnswers(t *testing.T, runc string, differs map[string]string) {
	t.Helper()
	ours, us := newRootlessPeer(t, "")
	ours.binary = filepath.Join(ours.Bundle, "runtime")
	theirs, them := newRootlessPeer(t, runc)
	for test := range strings.Lines(rootlessAnswers) {
		line := strings.Fields(test)
		for i := range line {
			line[i] = strings.ReplaceAll(line[i], "${IFS}", " ")
		}
		got, want := ours.answer(us, line), theirs.answer(them, line)
		if _, expected := differs[strings.TrimSpace(test)]; expected && got.Status == 0 && want.Status == 0 {
			if got.Stdout != want.Stdout {
				delete(differs, strings.TrimSpace(test))
			}
			continue
		}
		if got.Status != want.Status || got.Stdout != want.Stdout || got.Status != 0 && (got.Stderr == "") != (want.Stderr == "") {
			t.Errorf("%s\nours:   %d %q %q\nrunc's: %d %q %q", test, got.Status, got.Stdout, got.Stderr, want.Status, want.Stdout, want.Stderr)
		}
	}
	for line, reason := range differs {
		t.Errorf("%s: no answer differs, though %s", line, reason)
	}
}

// TestRootlessRefusals: an ordinary user who asks for too much is told of what.
func TestRootlessRefusals(t *testing.T) {
	c, p := newRootlessPeer(t, "")
	c.binary = filepath.Join(c.Bundle, "runtime")
	locked := filepath.Join(c.Bundle, "nosuid")
	if err := errors.Join(os.Mkdir(locked, 0o755), unix.Mount("tmpfs", locked, "tmpfs", unix.MS_NOSUID, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(locked, unix.MNT_DETACH) })
	for bundle, want := range map[string]string{
		"another": "cannot become group 6: the container's user namespace has no such group\n",
		"grouped": "cannot set process.user.additionalGids: the container's user namespace, whose mappings are none of newgidmap's, denies it\n",
		"bare":    "without a new user namespace only root may: operation not permitted\n",
		"limited": "permission denied\n",
		"locked":  "cannot set the attributes of the mount at \"/tmp\": a user namespace may not change how the host has mounted it: operation not permitted\n",
		"mapped":  "cannot map the ids of \"DIR/nosuid\": only root may do that: operation not permitted\n",
	} {
		if r := c.answer(p, []string{"run", "--bundle", bundle, "one"}); r.Status != 1 || !strings.HasSuffix(r.Stderr, want) || strings.Count(r.Stderr, "\n") > 2 {
			t.Errorf("%s: %+v", bundle, r)
		}
	}
	if r := c.answer(p, []string{"--log", "/absent/log", "run", "--bundle", "prints", "one"}); r.Status != 1 || r.Stdout != "" || r.Stderr != "cannot write the log: open /absent/log: no such file or directory\n" {
		t.Errorf("a log that can't be written: %+v", r)
	}
}

// TestRootlessGivenV1: who was given a part of the hierarchies of v1 has its limits, without root's rights to devices and
// without a right to the hierarchy of v2 beside them.
func TestRootlessGivenV1(t *testing.T) {
	if onV2(t) {
		t.Skip("it takes hierarchies of cgroup v1")
	}
	c, p := newRootlessPeer(t, "")
	c.binary = filepath.Join(c.Bundle, "runtime")
	parent := "/berth-given-" + c.ID
	hierarchies, err := testenv.Hierarchies()
	if err != nil || len(hierarchies) == 0 {
		t.Fatalf("%v %v", hierarchies, err)
	}
	for _, hierarchy := range hierarchies {
		dir := filepath.Join(hierarchy, parent)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		if output, err := exec.Command("chown", "-R", "1000:1000", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // else empty, of which nothing can be handed down
		if err := os.WriteFile(filepath.Join("/sys/fs/cgroup/cpuset", parent, file), []byte(readFile(t, "/sys/fs/cgroup/cpuset/"+file)), 0); err != nil {
			t.Fatal(err)
		}
	}
	c.spec.Process.Args = []string{"sleep", "1000"}
	c.spec.Linux.CgroupsPath = parent + "/one"
	c.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: pointer(int64(9))}, Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}
	writeJSON(t, c.config, c.spec)
	must := func(line ...string) string {
		t.Helper()
		r := c.answer(p, line)
		if r.Status != 0 || r.Stderr != "" {
			t.Fatalf("%v: %+v", line, r)
		}
		return r.Stdout
	}
	must("run", "--detach", "one")
	limit := filepath.Join("/sys/fs/cgroup/pids", parent, "one/pids.max")
	wantEqual(t, readFile(t, limit), "9")
	must("update", "--pids-limit", "11", "one")
	wantEqual(t, readFile(t, limit), "11")
	must("pause", "one")
	wantEqual(t, readFile(t, filepath.Join("/sys/fs/cgroup/freezer", parent, "one/freezer.state")), "FROZEN")
	must("resume", "one")
	wantEqual(t, must("exec", "one", "grep", "-c", parent+"/one$", "/proc/self/cgroup"), must("exec", "one", "grep", "-c", parent+"/one$", "/proc/1/cgroup"))
	if processes := must("ps", "one"); !strings.Contains(processes, "sleep") {
		t.Errorf("ps: %q", processes)
	}
	must("kill", "--all", "one", "KILL")
	must("delete", "--force", "one")
}
