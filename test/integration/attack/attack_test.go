// Package attack_test attacks berth-runtime in the manner of the vulnerabilities that container runtimes have had. Each
// test is a malicious image, a malicious neighbour with a shared volume, or a malicious process in the container, and
// what it must not get at is a directory of the host, the host's mounts and devices, and the runtime's own binary.
package attack_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// container is a bundle and the runtime that it is attacked with. It goes away with the test.
type container struct {
	t                                testing.TB
	Runtime                          string
	ID, Bundle, Rootfs, Root, Cgroup string
	Spec                             *specs.Spec
	User                             int      // who calls the runtime
	Handle                           *os.File // what a shim executes in place of Runtime
}

var counter atomic.Int32

// newContainer returns a container with the example configuration and busybox, which executes args without a terminal.
func newContainer(t testing.TB, args ...string) *container {
	t.Helper()
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	c := &container{
		t: t, Runtime: testenv.Binary(t, "berth-runtime"), ID: fmt.Sprintf("ba%d-%d", os.Getpid(), counter.Add(1)),
		Bundle: dir, Root: filepath.Join(dir, "state"), Rootfs: testenv.BusyboxRootfs(t), Spec: &specs.Spec{},
	}
	if err := json.Unmarshal(exampleConfig(t), c.Spec); err != nil {
		t.Fatal(err)
	}
	c.Cgroup = "/berth-attack-" + c.ID
	c.Spec.Process.Terminal, c.Spec.Process.Args = false, args
	c.Spec.Root.Path, c.Spec.Root.Readonly = c.Rootfs, false
	c.Spec.Linux.CgroupsPath = c.Cgroup
	t.Cleanup(func() {
		c.Runtime, c.User, c.Handle = testenv.Binary(t, "berth-runtime"), 0, nil // a test's own copy may be gone, or destroyed
		c.verb("delete", "--force", c.ID)
	})
	return c
}

var example struct {
	sync.Once
	content []byte
}

// exampleConfig is what the runtime's spec writes.
func exampleConfig(t testing.TB) []byte {
	t.Helper()
	example.Do(func() {
		dir := t.TempDir()
		if output, err := exec.Command(testenv.Binary(t, "berth-runtime"), "spec", "--bundle", dir).CombinedOutput(); err != nil {
			t.Fatalf("spec: %v: %s", err, output)
		}
		example.content, _ = os.ReadFile(filepath.Join(dir, "config.json"))
	})
	return example.content
}

func (c *container) shell(script string) *container {
	c.Spec.Process.Args = []string{"sh", "-c", script}
	return c
}

// attacker installs the program that attacks from inside, and makes the container execute it.
func (c *container) attacker(args ...string) *container {
	c.t.Helper()
	program, err := buildAttacker()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Rootfs, "attacker"), program, 0o755); err != nil {
		c.t.Fatal(err)
	}
	c.Spec.Process.Args = append([]string{"/attacker"}, args...)
	return c
}

var buildAttacker = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "attacker")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "attacker")
	build := exec.Command("go", "build", "-o", path, "./attacker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // there is no libc in the container
	if output, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, output)
	}
	return os.ReadFile(path)
})

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// capable gives the container's processes what Docker gives, and more.
func (c *container) capable(more ...string) *container {
	all := append([]string{
		"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
		"NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
	}, more...)
	for i := range all {
		all[i] = "CAP_" + all[i]
	}
	c.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	return c
}

func (c *container) mount(destination, kind, source string, options ...string) {
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: destination, Type: kind, Source: source, Options: options})
}

// without takes the mounts away whose destination starts with one of the prefixes.
func (c *container) without(prefixes ...string) {
	var kept []specs.Mount
	for _, m := range c.Spec.Mounts {
		hidden := false
		for _, prefix := range prefixes {
			hidden = hidden || m.Destination == prefix || strings.HasPrefix(m.Destination, prefix+"/")
		}
		if !hidden {
			kept = append(kept, m)
		}
	}
	c.Spec.Mounts = kept
}

// link puts a symlink in place of a file or directory of the image.
func (c *container) link(name, target string) {
	c.t.Helper()
	path := filepath.Join(c.Rootfs, name)
	err := os.RemoveAll(path)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.Symlink(target, path)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// outcome is what a command came to.
type outcome struct {
	Stdout, Stderr string
	Status         int
}

// execute runs a command with files for its output: a pipe would stay open in a container that outlives it.
func (c *container) execute(command *exec.Cmd) outcome {
	c.t.Helper()
	var contents [2]string
	var files [2]*os.File
	for i := range files {
		file, err := os.CreateTemp(c.Bundle, "output.")
		if err != nil {
			c.t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		files[i] = file
	}
	command.Stdout, command.Stderr = files[0], files[1]
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("%v: %v", command.Args, err)
	}
	for i, file := range files {
		content, err := os.ReadFile(file.Name())
		if err != nil {
			c.t.Fatal(err)
		}
		contents[i] = string(content)
	}
	return outcome{contents[0], contents[1], command.ProcessState.ExitCode()}
}

func (c *container) command(args ...string) *exec.Cmd {
	command := exec.Command(c.Runtime, append([]string{"--root", c.Root}, args...)...)
	if c.Handle != nil {
		command.Path, command.ExtraFiles = "/proc/self/fd/3", []*os.File{c.Handle}
	}
	if c.User != 0 {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(c.User), Gid: uint32(c.User)}}
	}
	return command
}

func (c *container) verb(args ...string) outcome {
	c.t.Helper()
	return c.execute(c.command(args...))
}

func (c *container) must(args ...string) outcome {
	c.t.Helper()
	r := c.verb(args...)
	if r.Status != 0 {
		c.t.Fatalf("%v: %+v", args, r)
	}
	return r
}

func (c *container) writeConfig() {
	c.t.Helper()
	content, err := json.Marshal(c.Spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(c.Bundle, "config.json"), content, 0o644)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *container) run() outcome {
	c.t.Helper()
	c.writeConfig()
	return c.verb("run", "--bundle", c.Bundle, c.ID)
}

func (c *container) create() {
	c.t.Helper()
	c.writeConfig()
	c.must("create", "--bundle", c.Bundle, c.ID)
}

func (c *container) start() *container {
	c.t.Helper()
	c.create()
	c.must("start", c.ID)
	return c
}

func (c *container) pid() int {
	c.t.Helper()
	var state struct{ Pid int }
	if err := json.Unmarshal([]byte(c.must("state", c.ID).Stdout), &state); err != nil {
		c.t.Fatal(err)
	}
	return state.Pid
}

// refused checks that the container did not come to be, that one sentence says why, and that nothing is left of it.
func (c *container) refused(r outcome, want string) {
	c.t.Helper()
	if r.Status == 0 || !strings.Contains(r.Stderr, want) {
		c.t.Errorf("it is not refused because of %s: %+v", want, r)
	}
	c.tidy(r)
}

// tidy checks that a failure, if it is one, is one sentence and leaves nothing behind.
func (c *container) tidy(r outcome) {
	c.t.Helper()
	if r.Status == 0 {
		return
	}
	if text := strings.TrimSpace(r.Stderr); text == "" || strings.Contains(text, "\n") {
		c.t.Errorf("the error is not one sentence: %q", r.Stderr)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*" + c.Cgroup, "/sys/fs/cgroup" + c.Cgroup, filepath.Join(c.Root, c.ID)} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			c.t.Errorf("left behind: %v", left)
		}
	}
}

// peers calls the attack with each of the runtimes that are installed beside ours, and logs what it comes to there.
func peers(t *testing.T, attack func(t testing.TB, runtime string) string) {
	t.Helper()
	for _, name := range []string{"runc", "crun"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		t.Logf("for comparison, %s: %s", name, strings.TrimSpace(attack(t, path)))
	}
}

func short(r outcome) string {
	text, _, _ := bytes.Cut([]byte(strings.TrimSpace(r.Stderr)), []byte("\n"))
	return fmt.Sprintf("status %d, stdout %q, stderr %q", r.Status, r.Stdout, text)
}

// rootless makes it the container of an ordinary user, who is its root.
func (c *container) rootless() *container {
	c.t.Helper()
	c.User = 1000
	c.giveAway(c.User)
	if err := errors.Join(os.Chown(c.Bundle, c.User, c.User), os.Chmod(c.Bundle, 0o755)); err != nil {
		c.t.Fatal(err)
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(c.User), Size: 1}}
	c.Spec.Linux.UIDMappings, c.Spec.Linux.GIDMappings = ids, ids
	c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	c.Spec.Linux.CgroupsPath, c.Spec.Linux.Resources = "", nil
	c.without("/sys/fs/cgroup")
	for i := range c.Spec.Mounts { // none of the host's groups is there
		c.Spec.Mounts[i].Options = slices.DeleteFunc(c.Spec.Mounts[i].Options, func(option string) bool { return strings.HasPrefix(option, "gid=") })
	}
	return c
}

// giveAway makes the image a user's, and lets him come to it.
func (c *container) giveAway(uid int) {
	c.t.Helper()
	for dir := c.Rootfs; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := filepath.WalkDir(c.Rootfs, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, uid))
	}); err != nil {
		c.t.Fatal(err)
	}
}
