package shim_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// containerd is a private containerd that finds our shim in its $PATH.
type containerd struct {
	t       testing.TB
	dir     string
	address string
	ctr     string
	rootfs  string
	space   string // its namespace: the runtime's state directory is named after it
	cmd     *exec.Cmd
}

func startContainerd(t testing.TB) *containerd {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Peer(t, "containerd")
	dir := testenv.ShortDir(t)
	c := &containerd{
		t: t, dir: dir, address: filepath.Join(dir, "c.sock"), ctr: testenv.Peer(t, "ctr"), rootfs: testenv.BusyboxRootfs(t),
		space: "berth-test-" + strings.ReplaceAll(filepath.Base(dir), ".", ""),
	}
	// A copy of the shim, which takes the runtime beside it.
	shim, err := os.ReadFile(testenv.Binary(t, shimName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", shimName), shim, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(ociRuntime(t), filepath.Join(dir, "bin", "berth-runtime")); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`version = 2
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = %[3]q
[ttrpc]
  address = %[4]q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.address, c.address+".ttrpc")
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.remove)
	c.start()
	return c
}

func (c *containerd) start() {
	c.t.Helper()
	c.cmd = exec.Command("containerd", "--config", filepath.Join(c.dir, "config.toml"), "--log-level", "warn")
	c.cmd.Env = append(os.Environ(), "PATH="+filepath.Join(c.dir, "bin")+":"+os.Getenv("PATH"))
	c.cmd.Stderr = c.t.Output()
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	testenv.Until(c.t, usual, "containerd answers", func() error {
		_, err := c.try("version")
		return err
	})
}

// kill is kill -9 of containerd.
func (c *containerd) kill() {
	if err := c.cmd.Process.Kill(); err != nil {
		c.t.Error(err)
	}
	_ = c.cmd.Wait()
}

func (c *containerd) remove() {
	for id := range strings.FieldsSeq(c.mustRun("tasks", "ls", "-q")) {
		if output, err := c.try("tasks", "rm", "-f", id); err != nil {
			c.t.Errorf("cannot remove task %s: %v\n%s", id, err, output)
		}
	}
	c.kill()
	testenv.Until(c.t, usual, "the runtime's state directory is empty", func() error {
		err := os.Remove(filepath.Join("/run/berth/runtime", c.space))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

func (c *containerd) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	output, err := exec.CommandContext(ctx, c.ctr, append([]string{"--address", c.address, "--namespace", c.space}, args...)...).CombinedOutput()
	return string(output), err
}

func (c *containerd) mustRun(args ...string) string {
	c.t.Helper()
	output, err := c.try(args...)
	if err != nil {
		c.t.Errorf("ctr %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return output
}

// flags are those of ctr run for our shim.
func (c *containerd) flags(id string, more ...string) []string {
	return append(append([]string{"run", "--runtime", "io.containerd.berth.v2", "--cgroup", testenv.CgroupParent + "/" + id, "--env", "PATH=/bin"}, more...),
		"--rootfs", c.rootfs, id)
}

func TestUnderContainerd(t *testing.T) {
	c := startContainerd(t)
	if got := c.mustRun(append(c.flags("one", "--rm"), "sh", "-c", "echo hello; echo there >&2")...); got != "hello\nthere\n" && got != "there\nhello\n" {
		t.Errorf("the container said %q", got)
	}
	var exit *exec.ExitError
	if _, err := c.try(append(c.flags("two", "--rm"), "sh", "-c", "exit 9")...); !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Errorf("exit status: %v", err)
	}
	c.mustRun(append(c.flags("web", "-d"), "sleep", "1000")...)
	if got := c.mustRun("tasks", "exec", "--exec-id", "x", "web", "echo", "from exec"); got != "from exec\n" {
		t.Errorf("exec said %q", got)
	}
	c.mustRun("tasks", "pause", "web")
	if got := c.mustRun("tasks", "ls"); !strings.Contains(got, "PAUSED") {
		t.Errorf("tasks: %s", got)
	}
	c.mustRun("tasks", "resume", "web")
	if got := c.mustRun("tasks", "metrics", "web"); !strings.Contains(got, "cpu") {
		t.Errorf("metrics: %s", got)
	}
	if got := c.mustRun("tasks", "ps", "web"); len(strings.Split(strings.TrimSpace(got), "\n")) != 2 {
		t.Errorf("ps: %s", got)
	}

	c.kill() // the container does not notice, and the next containerd finds it
	c.start()
	if got := c.mustRun("tasks", "ls"); !strings.Contains(got, "RUNNING") {
		t.Errorf("tasks after a restart: %s", got)
	}
	c.mustRun("tasks", "kill", "-s", "KILL", "web")
	testenv.Until(t, usual, "containerd has seen the exit", func() error {
		got, err := c.try("tasks", "ls")
		if err == nil && !strings.Contains(got, "STOPPED") {
			err = errors.New(got)
		}
		return err
	})
	c.mustRun("tasks", "rm", "web")
	c.mustRun("containers", "rm", "web")
	c.expectNoShim()
}

// ctr asks for the size of a terminal when it has the container, which may have ended by then.
func TestTerminalUnderContainerd(t *testing.T) {
	c := startContainerd(t)
	script := testenv.Peer(t, "script")
	for range 5 {
		args := append([]string{c.ctr, "--address", c.address, "--namespace", c.space}, c.flags("tty", "--rm", "-t")...)
		output, err := exec.Command(script, "-qec", strings.Join(append(args, "echo", "hello"), " "), "/dev/null").CombinedOutput()
		// script types the end of its own input.
		if got := strings.TrimPrefix(strings.TrimSpace(string(output)), "^@"); err != nil || got != "hello" {
			t.Errorf("ctr says %q, %v", output, err)
		}
	}
}

// expectNoShim waits until no shim of this containerd runs.
func (c *containerd) expectNoShim() {
	c.t.Helper()
	testenv.Until(c.t, usual, "no shim is left", func() error {
		if left := c.shims(); len(left) > 0 {
			return fmt.Errorf("processes %v", left)
		}
		return nil
	})
}

// shims returns those that serve this containerd.
func (c *containerd) shims() []testenv.Process {
	c.t.Helper()
	return testenv.Processes(c.t, shimName, c.address)
}

// TestUnderAServiceManager: what it waits for is containerd's word, and no container's.
func TestUnderAServiceManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	c := startContainerd(t)
	if got := c.mustRun(append(c.flags("quiet", "--rm"), "sh", "-c", "echo socket: $NOTIFY_SOCKET")...); got != "socket:\n" {
		t.Errorf("the container said %q", got)
	}
}

func TestContainerdCleansUpBehindADeadShim(t *testing.T) {
	c := startContainerd(t)
	c.mustRun(append(c.flags("web", "-d"), "sleep", "1000")...)
	shims := c.shims()
	if len(shims) != 1 {
		t.Fatalf("shims %v", shims)
	}
	var pid int
	list := c.mustRun("tasks", "ls")
	if _, err := fmt.Sscanf(list[strings.Index(list, "web"):], "web %d", &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(shims[0].Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, usual, "the container of the dead shim is gone", func() error {
		if !zombie(pid) {
			return fmt.Errorf("process %d is there", pid)
		}
		return nil
	})
	testenv.Until(t, usual, "containerd has cleaned up", func() error {
		got, err := c.try("tasks", "ls", "-q")
		if err == nil && got != "" {
			err = fmt.Errorf("task %q is there", got)
		}
		return err
	})
	c.mustRun("containers", "rm", "web")
}
