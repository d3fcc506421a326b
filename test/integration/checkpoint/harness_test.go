// Package checkpoint_test writes containers to files and brings them back, and looks at what came with them. It needs a
// criu that works with the kernel at hand.
package checkpoint_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// container is a bundle and what lives of it.
type container struct {
	t      testing.TB
	ID     string
	Dir    string // of the bundle and of everything else
	Rootfs string
	Spec   *specs.Spec
	// StateDir is the runtime's --root.
	StateDir string

	systemd bool // makes the cgroup
}

var counter atomic.Int32

// newContainer returns a container with the example configuration and busybox, which executes a script.
func newContainer(t testing.TB, script string) *container {
	t.Helper()
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	c := &container{
		t: t, ID: fmt.Sprintf("bc%d-%d", os.Getpid(), counter.Add(1)), Dir: dir,
		Rootfs: testenv.BusyboxRootfs(t), Spec: testenv.ExampleSpec(t), StateDir: filepath.Join(dir, "state"),
	}
	c.Spec.Process.Terminal = false
	c.Spec.Process.NoNewPrivileges = false // which criu knows since 3.18 only
	c.Spec.Process.Args = []string{"sh", "-c", script}
	c.Spec.Root.Path, c.Spec.Root.Readonly = c.Rootfs, false
	c.Spec.Linux.CgroupsPath = testenv.CgroupParent + "/" + c.ID
	t.Cleanup(func() { c.verb("delete", "--force", c.ID) })
	return c
}

// useHostPrograms shows the host's programs to the container, for what busybox lacks.
func (c *container) useHostPrograms() {
	c.t.Helper()
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/usr", Source: "/usr", Type: "bind", Options: []string{"rbind", "ro"}})
	for _, name := range []string{"lib", "lib64"} {
		if err := os.Symlink("usr/"+name, filepath.Join(c.Rootfs, name)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *container) command(args ...string) *exec.Cmd {
	global := []string{"--root", c.StateDir}
	if c.systemd {
		global = append(global, "--systemd-cgroup")
	}
	return exec.Command(testenv.Runtime(c.t), append(global, args...)...)
}

func (c *container) verb(args ...string) testenv.Outcome {
	c.t.Helper()
	return testenv.Execute(c.t, c.command(args...))
}

// must is verb for what has to succeed. It returns the output.
func (c *container) must(args ...string) string {
	c.t.Helper()
	r := c.verb(args...)
	if r.Status != 0 {
		c.t.Fatalf("%s: status %d\nstdout: %s\nstderr: %s\n%s", strings.Join(args, " "), r.Status, r.Stdout, r.Stderr, c.logs())
	}
	return r.Stdout
}

// refused is verb for what has to fail with a sentence that contains want.
func (c *container) refused(want string, args ...string) {
	c.t.Helper()
	r := c.verb(args...)
	if r.Status != 1 || !strings.Contains(r.Stderr, want) || strings.Count(strings.TrimSpace(r.Stderr), "\n") > 0 {
		c.t.Errorf("%s: status %d, stderr %q, want one line with %q", strings.Join(args, " "), r.Status, r.Stderr, want)
	}
}

// logs quotes the complaints of criu's logs.
func (c *container) logs() string {
	var all []string
	for _, pattern := range []string{"*.log", "*/*.log"} {
		files, _ := filepath.Glob(filepath.Join(c.Dir, pattern))
		for _, file := range files {
			content, _ := os.ReadFile(file)
			for line := range strings.Lines(string(content)) {
				if strings.Contains(line, "Error") {
					all = append(all, filepath.Base(file)+": "+line)
				}
			}
		}
	}
	return strings.Join(all, "")
}

func (c *container) path(name string) string { return filepath.Join(c.Dir, name) }

func (c *container) writeConfig() {
	c.t.Helper()
	content, err := json.Marshal(c.Spec)
	if err == nil {
		err = os.WriteFile(c.path("config.json"), content, 0o600)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *container) status() string {
	c.t.Helper()
	return c.state().Status
}

// report is what state prints.
type report struct {
	Status  string
	Pid     int
	Created time.Time
	Bundle  string

	Annotations map[string]string
}

func (c *container) state() (r report) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.must("state", c.ID)), &r); err != nil {
		c.t.Fatal(err)
	}
	return r
}

// awaitEnd waits for a process that is nobody's child here.
func (c *container) awaitEnd(pid int) {
	c.t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30_000); n != 1 {
		c.t.Fatalf("process %d does not end: %v", pid, err)
	}
}

// conversation is the other end of a container's standard descriptors.
type conversation struct {
	t     testing.TB
	in    *os.File
	lines *bufio.Scanner
	out   *os.File
}

// detached runs a verb that starts the container, and talks with what it has started.
func (c *container) detached(args ...string) *conversation {
	c.t.Helper()
	command := c.command(args...)
	talk := connect(c.t, command)
	if err := command.Run(); err != nil {
		_ = talk.in.Close()
		_ = talk.out.SetReadDeadline(time.Now().Add(time.Second))
		rest := make([]byte, 4096)
		n, _ := talk.out.Read(rest)
		c.t.Fatalf("%s: %v: %s\n%s", strings.Join(args, " "), err, rest[:n], c.logs())
	}
	return talk
}

// connect gives a command pipes, which unlike those of os/exec may outlive it.
func connect(t testing.TB, command *exec.Cmd) *conversation {
	t.Helper()
	theirIn, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stdin, command.Stdout, command.Stderr = theirIn, theirOut, theirOut
	t.Cleanup(func() { _, _, _, _ = in.Close(), out.Close(), theirIn.Close(), theirOut.Close() })
	return &conversation{t: t, in: in, out: out, lines: bufio.NewScanner(out)}
}

// run starts the container detached.
func (c *container) run() *conversation {
	c.t.Helper()
	c.writeConfig()
	return c.detached("run", "--detach", "--bundle", c.Dir, c.ID)
}

// checkpoint writes the container to the directory "images".
func (c *container) checkpoint(flags ...string) {
	c.t.Helper()
	c.must(append(append([]string{"checkpoint", "--image-path", c.path("images")}, flags...), c.ID)...)
}

// restore brings it back, detached.
func (c *container) restore(flags ...string) *conversation {
	c.t.Helper()
	return c.detached(append(append([]string{"restore", "--detach", "--bundle", c.Dir, "--image-path", c.path("images")}, flags...), c.ID)...)
}

// ask sends a line and expects another one for it.
func (talk *conversation) ask(line, want string) {
	talk.t.Helper()
	if _, err := fmt.Fprintln(talk.in, line); err != nil {
		talk.t.Fatal(err)
	}
	talk.expect(want)
}

// expect reads a line. A container that has gone silent is a failure, not a hanging test.
func (talk *conversation) expect(want string) {
	talk.t.Helper()
	_ = talk.out.SetReadDeadline(time.Now().Add(30 * time.Second))
	if !talk.lines.Scan() {
		talk.t.Fatalf("no line, want %q: %v", want, talk.lines.Err())
	}
	if got := talk.lines.Text(); got != want {
		talk.t.Fatalf("got %q, want %q", got, want)
	}
}

// echo is a script that numbers the lines it gets.
const echo = `i=0; while read line; do i=$((i+1)); echo "$line $i"; done; exit $((i+40))`

func (c *container) gone() {
	c.t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/*" + testenv.CgroupParent + "/" + c.ID, "/sys/fs/cgroup" + testenv.CgroupParent + "/" + c.ID, filepath.Join(c.StateDir, c.ID)} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			c.t.Errorf("%v is left", left)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		c.t.Fatal(err)
	}
	if strings.Contains(string(mounts), c.Dir) {
		c.t.Error("mounts are left")
	}
}

// talkOver is a conversation over a terminal.
func talkOver(t testing.TB, fd int) *conversation {
	t.Helper()
	if err := unix.SetNonblock(fd, true); err != nil { // so that a deadline can be set
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "terminal")
	t.Cleanup(func() { _ = file.Close() })
	lines := bufio.NewScanner(file)
	return &conversation{t: t, in: file, out: file, lines: lines}
}
