package runtime_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// TestListenDescriptors has a service manager hand sockets over, to the runtime or to another.
func TestListenDescriptors(t *testing.T) {
	for pid, want := range map[string]string{"$$": "1 1 /proc/self/fd/3", "1": ""} {
		c := newContainer(t).shell("test -n \"$LISTEN_FDS\" && echo $LISTEN_FDS $LISTEN_PID $(ls -d /proc/self/fd/3)")
		c.writeConfig()
		run := c.command("run", "--bundle", c.Bundle, c.ID)
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		script := exec.Command("sh", append([]string{"-c", "export LISTEN_FDS=1 LISTEN_PID=" + pid + `; exec "$0" "$@"`, run.Path}, run.Args[1:]...)...)
		script.ExtraFiles = []*os.File{writer}
		if r := testenv.Execute(t, script); strings.TrimSpace(r.Stdout) != want || r.Stderr != "" {
			t.Errorf("LISTEN_PID %s: %+v, want %q", pid, r, want)
		}
		_ = reader.Close()
		_ = writer.Close()
	}
}

// serviceManager is a service manager's end of NOTIFY_SOCKET.
type serviceManager struct {
	t    testing.TB
	path string
	conn *net.UnixConn
}

func newServiceManager(t testing.TB, dir string) *serviceManager {
	t.Helper()
	m := &serviceManager{t: t, path: filepath.Join(dir, "manager")}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.conn.Close() })
	raw, err := m.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }); err != nil {
		t.Fatal(err)
	}
	return m
}

// want receives a message, which has to come from the process, and closes a descriptor that comes with it.
func (m *serviceManager) want(text string, pid int) {
	m.t.Helper()
	_ = m.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	data, control := make([]byte, 4096), make([]byte, 256)
	n, c, _, _, err := m.conn.ReadMsgUnix(data, control)
	if err != nil {
		m.t.Fatalf("waiting for %q: %v", text, err)
	}
	wantEqual(m.t, string(data[:n]), text)
	messages, err := unix.ParseSocketControlMessage(control[:c])
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			_ = unix.Close(fds[0])
		}
		if sender, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			wantEqual(m.t, int(sender.Pid), pid)
		}
	}
}

// say sends a message over the socket that the container has.
func (m *serviceManager) say(c *container, text string) {
	m.t.Helper()
	pid := ""
	testenv.WaitFor(m.t, "the container to run", func() bool {
		r := c.verb("state", c.ID)
		pid = strconv.Itoa(stateIn(r.Stdout).Pid)
		return stateIn(r.Stdout).Status == "running"
	})
	conn, err := net.Dial("unixgram", filepath.Join("/proc", pid, "root/run/notify/notify.sock"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		m.t.Fatal(err)
	}
}

// TestNotifySocketOfRun: a service manager believes the runtime, and not processes of other cgroups.
func TestNotifySocketOfRun(t *testing.T) {
	c := newContainer(t).shell("echo $NOTIFY_SOCKET; stat -c %A $NOTIFY_SOCKET; exec sleep 1000")
	c.Spec.Process.User.UID, c.Spec.Process.User.GID = 1000, 1000
	c.writeConfig()
	m := newServiceManager(t, c.Bundle)
	run := c.command("run", "--bundle", c.Bundle, c.ID)
	run.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path)
	output, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	for lines, want := bufio.NewScanner(output), []string{"/run/notify/notify.sock", "srwxrwxrwx"}; len(want) > 0 && lines.Scan(); want = want[1:] {
		wantEqual(t, lines.Text(), want[0])
	}
	pid := run.Process.Pid
	m.say(c, "STATUS=warm\nREADY=1\nMAINPID=1")
	m.want("READY=1\n", pid)
	m.want("MAINPID="+strconv.Itoa(pid)+"\n", pid)
	m.want("BARRIER=1", pid)
	m.say(c, "STATUS=busy\nMAINPID=1\nSTOPPING=1")
	m.want("STATUS=busy\nSTOPPING=1", pid)
	c.must("kill", c.ID, "KILL")
	_ = run.Wait()
	c.gone()
}

// TestNotifySocketOfNobody: the variable of a service that has ended is in no container's way.
func TestNotifySocketOfNobody(t *testing.T) {
	c := newContainer(t, "echo", "hello")
	t.Setenv("NOTIFY_SOCKET", filepath.Join(c.Bundle, "absent"))
	if r := c.run(); r.Status != 0 || r.Stdout != "hello\n" || !strings.HasPrefix(r.Stderr, "warning: cannot connect to NOTIFY_SOCKET") {
		t.Errorf("%+v", r)
	}
	c.gone()
}

// TestNotifySocketOfStart: start comes back when the container is ready, and makes its process the service's.
func TestNotifySocketOfStart(t *testing.T) {
	for _, ready := range []bool{true, false} {
		c := newContainer(t, "sleep", "1000")
		c.writeConfig()
		m := newServiceManager(t, c.Bundle)
		t.Setenv("NOTIFY_SOCKET", m.path)
		c.leave("create", "--bundle", c.Bundle, c.ID)
		start := c.command("start", c.ID)
		if err := start.Start(); err != nil {
			t.Fatal(err)
		}
		testenv.WaitFor(t, "the container to run", func() bool { return c.state().Status == "running" })
		if ready {
			m.say(c, "READY=1")
			m.want("READY=1\n", start.Process.Pid)
			m.want("MAINPID="+strconv.Itoa(c.state().Pid)+"\n", start.Process.Pid)
			m.want("BARRIER=1", start.Process.Pid)
		} else {
			c.must("kill", c.ID, "KILL")
		}
		if err := start.Wait(); err != nil {
			t.Errorf("start: %v", err)
		}
	}
}
