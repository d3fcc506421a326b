package runtime_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// consoleSocket returns the path of a socket, and what receives the terminal that is sent to it.
func consoleSocket(t testing.TB, c *container) (string, func() *os.File) {
	t.Helper()
	path := filepath.Join(c.Bundle, "console")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return path, func() *os.File { return receiveDescriptor(t, listener) }
}

// receiveDescriptor accepts a connection and returns the descriptor that comes over it, with the name that comes too.
func receiveDescriptor(t testing.TB, listener *net.UnixListener) *os.File {
	t.Helper()
	conn, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	name, control := make([]byte, 256), make([]byte, unix.CmsgSpace(4))
	length, n, _, _, err := conn.ReadMsgUnix(name, control)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), string(name[:length]))
}

// readAll reads a terminal until its last user is gone, which is an error of its own.
func readAll(t testing.TB, terminal *os.File) string {
	t.Helper()
	output, err := io.ReadAll(terminal)
	if err != nil && !strings.Contains(err.Error(), "input/output error") {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(output), "\r\n", "\n")
}

func TestTerminal(t *testing.T) {
	c := newContainer(t).shell("tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; stat -c %t:%T /dev/console /dev/pts/0; echo x > /dev/tty && echo controlling")
	c.Spec.Process.Terminal = true
	c.Spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
	c.writeConfig()
	path, receive := consoleSocket(t, c)
	c.leave("create", "--bundle", c.Bundle, "--console-socket", filepath.Base(path), c.ID) // found in the bundle, as with runc
	terminal := receive()
	defer terminal.Close()
	wantEqual(t, terminal.Name(), "/dev/ptmx") // the same
	c.must("start", c.ID)
	wantEqual(t, readAll(t, terminal), "/dev/pts/0\n33 77\nall\n88:0\n88:0\nx\ncontrolling\n")
}

func TestTerminalIsTheUsers(t *testing.T) {
	c := newContainer(t).shell("stat -Lc %u /proc/self/fd/0; echo x > /dev/pts/0 && echo open")
	c.Spec.Process.Terminal = true
	c.Spec.Process.User.UID = 1000
	c.writeConfig()
	path, receive := consoleSocket(t, c)
	c.leave("create", "--bundle", c.Bundle, "--console-socket", path, c.ID)
	terminal := receive()
	defer terminal.Close()
	c.must("start", c.ID)
	wantEqual(t, readAll(t, terminal), "1000\nx\nopen\n")
}

func TestExecTerminal(t *testing.T) {
	c := sleeping(t, nil)
	path, receive := consoleSocket(t, c)
	c.leave("exec", "--tty", "--detach", "--console-socket", path, c.ID, "sh", "-c", "tty; test -t 0 && echo terminal")
	terminal := receive()
	defer terminal.Close()
	wantEqual(t, readAll(t, terminal), "/dev/pts/0\nterminal\n")
}

func TestForegroundTerminal(t *testing.T) {
	// The runtime copies between what it was started with and the container's terminal.
	c := newContainer(t).shell("test -t 1 && echo terminal; exit 4")
	c.Spec.Process.Terminal = true
	r := c.run()
	wantEqual(t, r.Status, 4)
	wantEqual(t, r.Stdout, "terminal\n") // as the program wrote it, for files and pipes
}

// TestTerminalWhereTheRuntimeMayBeTraced: where a process of the container may trace the runtime, the runtime executes
// itself again from a protected file. Receivers accept one connection, so it must not have connected before.
func TestTerminalWhereTheRuntimeMayBeTraced(t *testing.T) {
	neighbour := sleeping(t, nil)
	pids := fmt.Sprintf("/proc/%d/ns/pid", neighbour.state().Pid)
	kinds := map[string]func(spec *specs.Spec){
		"privileged": unrestricted,
		"SYS_PTRACE": func(spec *specs.Spec) {
			spec.Process.Capabilities.Bounding = append(spec.Process.Capabilities.Bounding, "CAP_SYS_PTRACE")
		},
		"joined pid namespace": func(spec *specs.Spec) {
			for i := range spec.Linux.Namespaces {
				if n := &spec.Linux.Namespaces[i]; n.Type == specs.PIDNamespace {
					n.Path = pids
				}
			}
		},
	}
	const script = "test -t 1 && echo terminal"
	for name, change := range kinds {
		t.Run("create "+name, func(t *testing.T) {
			c := newContainer(t).shell(script)
			c.Spec.Process.Terminal = true
			change(c.Spec)
			c.writeConfig()
			wantOneTerminal(t, c, func(path string) {
				c.leave("create", "--bundle", c.Bundle, "--console-socket", path, c.ID)
				c.must("start", c.ID)
			})
		})
		t.Run("run "+name, func(t *testing.T) {
			c := newContainer(t).shell(script)
			c.Spec.Process.Terminal = true
			change(c.Spec)
			c.writeConfig()
			wantOneTerminal(t, c, func(path string) { c.leave("run", "--detach", "--bundle", c.Bundle, "--console-socket", path, c.ID) })
		})
		t.Run("exec "+name, func(t *testing.T) {
			c := sleeping(t, change)
			wantOneTerminal(t, c, func(path string) {
				c.leave("exec", "--tty", "--detach", "--console-socket", path, c.ID, "sh", "-c", script)
			})
		})
	}
	t.Run("after a privileged exec", func(t *testing.T) {
		c := sleeping(t, nil)
		c.must("exec", "--cap", "CAP_SYS_PTRACE", c.ID, "true")
		wantOneTerminal(t, c, func(path string) {
			c.leave("exec", "--tty", "--detach", "--console-socket", path, c.ID, "sh", "-c", script)
		})
	})
}

func unrestricted(spec *specs.Spec) { privileged(&container{Spec: spec}) }

// wantOneTerminal gives begin the path of a socket that takes one connection, over which the terminal of a process that
// prints that it has one has to come.
func wantOneTerminal(t *testing.T, c *container, begin func(path string)) {
	t.Helper()
	path, receive := consoleSocket(t, c)
	begin(path)
	terminal := receive()
	defer terminal.Close()
	wantEqual(t, readAll(t, terminal), "terminal\n")
}

// TestProcessFromAPipe: a pipe can't be read by two executions of the runtime.
func TestProcessFromAPipe(t *testing.T) {
	for name, change := range map[string]func(spec *specs.Spec){"plain": nil, "privileged": unrestricted} {
		c := sleeping(t, change)
		for _, capability := range []string{"CAP_KILL", "CAP_SYS_PTRACE"} {
			process := fmt.Sprintf(`{"args":["echo","hello"],"cwd":"/","capabilities":{"bounding":[%q]}}`, capability)
			inside := c.command("exec", "--process", "/dev/stdin", c.ID)
			inside.Stdin = strings.NewReader(process) // which is a pipe for the runtime
			if r := testenv.Execute(t, inside); r.Status != 0 || r.Stdout != "hello\n" {
				t.Errorf("%s container, %s: %+v", name, capability, r)
			}
		}
	}
}

func TestTerminalErrors(t *testing.T) {
	c := newContainer(t, "true")
	c.Spec.Process.Terminal = true
	c.writeConfig()
	c.wantFailure("--console-socket", "create", "--bundle", c.Bundle, c.ID)
	c.wantFailure(`"/does/not/exist"`, "create", "--bundle", c.Bundle, "--console-socket", "/does/not/exist", c.ID)
	c.gone()
	id := sleeping(t, nil)
	for _, flags := range [][]string{{"--tty", "--detach"}, {"--tty", "--console-socket", "/x"}, {"--detach", "--console-socket", "/x"}} {
		if r := id.verb(append(append([]string{"exec"}, flags...), id.ID, "true")...); r.Status != 255 || !strings.Contains(r.Stderr, "--console-socket") {
			t.Errorf("exec %v: %+v", flags, r)
		}
	}

	without := newContainer(t, "true")
	without.Spec.Process.Terminal = true
	var mounts []specs.Mount
	for _, m := range without.Spec.Mounts {
		if m.Destination != "/dev/pts" {
			mounts = append(mounts, m)
		}
	}
	without.Spec.Mounts = mounts
	without.refused(`"/dev/pts/ptmx"`)
}

// console is a terminal as people sit at.
type console struct {
	t             testing.TB
	master, slave *os.File
	seen          string
}

func newConsole(t testing.TB) *console {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return &console{t: t, master: master, slave: slave}
}

func (c *console) resize(rows, columns uint16) {
	c.t.Helper()
	if err := unix.IoctlSetWinsize(int(c.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		c.t.Fatal(err)
	}
}

// start starts a command at the terminal.
func (c *console) start(command *exec.Cmd) {
	c.t.Helper()
	command.Stdin, command.Stdout, command.Stderr = c.slave, c.slave, c.slave
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := command.Start(); err != nil {
		c.t.Fatal(err)
	}
}

// wait reads until the text has come.
func (c *console) wait(text string) {
	c.t.Helper()
	buffer := make([]byte, 4096)
	for !strings.Contains(c.seen, text) {
		ready := []unix.PollFd{{Fd: int32(c.master.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, 20000); n == 0 {
			c.t.Fatalf("there is no %q in %q, %v", text, c.seen, err)
		}
		n, err := c.master.Read(buffer)
		if err != nil {
			c.t.Fatal(err)
		}
		c.seen += string(buffer[:n])
	}
	_, c.seen, _ = strings.Cut(c.seen, text)
}

func (c *console) say(text string) {
	c.t.Helper()
	if _, err := c.master.WriteString(text); err != nil {
		c.t.Fatal(err)
	}
}

// TestSittingAtATerminal: what is typed, the size and its changes go to the container's terminal, and afterwards the
// user's own is as it was.
func TestSittingAtATerminal(t *testing.T) {
	for _, verb := range []string{"run", "exec"} {
		t.Run(verb, func(t *testing.T) {
			c := newContainer(t)
			script := "trap 'stty size' WINCH; trap 'echo interrupted; exit 6' INT; stty size; echo ready; while :; do sleep 0.05; done"
			command := c.command("exec", "--tty", c.ID, "sh", "-c", script)
			if verb == "run" {
				c.shell(script).Spec.Process.Terminal = true
				c.writeConfig()
				command = c.command("run", "--bundle", c.Bundle, c.ID)
			} else {
				c.Spec.Process.Args = []string{"sleep", "1000"}
				c.start()
			}
			user := newConsole(t)
			user.resize(31, 71)
			before, err := unix.IoctlGetTermios(int(user.slave.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			user.start(command)
			user.wait("31 71\r\nready\r\n")
			user.resize(32, 72) // of which the kernel tells the runtime by a signal
			user.wait("32 72\r\n")
			user.say("\x03")
			user.wait("interrupted\r\n")
			_ = command.Wait()
			wantEqual(t, command.ProcessState.ExitCode(), 6)
			after, err := unix.IoctlGetTermios(int(user.slave.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			wantEqual(t, *after, *before)
		})
	}
}

// TestTheUsersTerminalStaysTheirs: it is not given to the container's user, whom the host has under the same number.
func TestTheUsersTerminalStaysTheirs(t *testing.T) {
	c := newContainer(t, "echo", "hello")
	c.Spec.Process.User.UID = 1000
	c.writeConfig()
	user := newConsole(t)
	command := c.command("run", "--bundle", c.Bundle, c.ID)
	user.start(command)
	user.wait("hello\r\n")
	_ = command.Wait()
	info, err := user.slave.Stat()
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, info.Sys().(*syscall.Stat_t).Uid, 0)
}
