package runtime_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
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
	c.leave("create", "--bundle", c.Bundle, "--console-socket", path, c.ID)
	terminal := receive()
	defer terminal.Close()
	wantEqual(t, terminal.Name(), "/dev/ptmx") // as with runc
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
	wantEqual(t, strings.ReplaceAll(r.Stdout, "\r\n", "\n"), "terminal\n")
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
