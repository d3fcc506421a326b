package runtime_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// agent is a seccomp agent: it gets listeners, and answers every call that is asked about.
type agent struct {
	t      *testing.T
	path   string
	states chan specs.ContainerProcessState
	calls  chan int
	answer func(number int) int32 // an errno, or 0 to let the call go on
}

func newAgent(t *testing.T, answer func(number int) int32) *agent {
	t.Helper()
	a := &agent{
		t: t, path: filepath.Join(testenv.ShortDir(t), "agent.sock"), answer: answer,
		states: make(chan specs.ContainerProcessState, 10), calls: make(chan int, 10000),
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			a.receive(conn)
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-ended })
	return a
}

// receive takes one listener, and serves it in a goroutine that ends with the last process of the filter.
func (a *agent) receive(conn *net.UnixConn) {
	defer conn.Close()
	content, rights := make([]byte, 65536), make([]byte, 64)
	n, m, _, _, err := conn.ReadMsgUnix(content, rights)
	if err != nil {
		a.t.Error(err)
		return
	}
	var state specs.ContainerProcessState
	messages, err := unix.ParseSocketControlMessage(rights[:m])
	if err := errors.Join(err, json.Unmarshal(content[:n], &state)); err != nil || len(messages) != 1 {
		a.t.Errorf("%d messages with rights, %v", len(messages), err)
		return
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		a.t.Errorf("descriptors %v, %v", fds, err)
		return
	}
	a.states <- state
	go a.serve(fds[0])
}

func (a *agent) serve(listener int) {
	defer func() { _ = unix.Close(listener) }()
	for {
		poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR || poll[0].Revents&unix.POLLIN == 0 && poll[0].Revents != 0 {
			return
		}
		var request [80]byte
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&request))); errno != 0 {
			continue
		}
		number := int(binary.NativeEndian.Uint32(request[16:]))
		a.calls <- number
		var response [24]byte
		copy(response[:8], request[:8])
		if errno := a.answer(number); errno != 0 {
			binary.NativeEndian.PutUint32(response[16:], uint32(-errno))
		} else {
			binary.NativeEndian.PutUint32(response[20:], unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&response)))
	}
}

func (a *agent) profile(names ...string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: a.path, ListenerMetadata: "what it is",
		Syscalls: []specs.LinuxSyscall{{Names: names, Action: specs.ActNotify}},
	}
}

func TestSeccompAgent(t *testing.T) {
	for _, detached := range []bool{false, true} {
		a := newAgent(t, func(int) int32 { return int32(unix.ENOMEDIUM) })
		c := newContainer(t).shell("mkdir /tmp/new 2>&1; echo done")
		c.Spec.Linux.Seccomp = a.profile("mkdir", "mkdirat")
		c.Spec.Linux.Seccomp.ListenerPath, _ = filepath.Rel(c.Bundle, a.path) // a relative path starts at the bundle
		status := specs.StateCreated
		if detached {
			c.Spec.Process.Args = []string{"sleep", "1000"}
			c.start()
		} else if out := c.output(); out != "mkdir: can't create directory '/tmp/new': No medium found\ndone\n" {
			t.Errorf("output %q", out)
		}
		state := <-a.states
		if state.State.ID != c.ID || state.State.Status != status || state.Pid == 0 || state.Metadata != "what it is" || !slices.Equal(state.Fds, []string{"seccompFd"}) {
			t.Errorf("state %+v", state)
		}
		if !detached {
			continue
		}
		if r := c.verb("exec", c.ID, "mkdir", "/tmp/new"); r.Status != 1 || !strings.Contains(r.Stderr, "No medium found") {
			t.Errorf("exec: %+v", r)
		}
		if state := <-a.states; state.State.Status != specs.StateRunning || state.State.Pid == state.Pid {
			t.Errorf("state for exec %+v", state)
		}
	}
}

// TestSeccompAgentIsAskedAboutTheRuntimesCalls: what the runtime does after it has loaded the filter needs the agent's
// consent too.
func TestSeccompAgentIsAskedAboutTheRuntimesCalls(t *testing.T) {
	a := newAgent(t, func(int) int32 { return 0 })
	c := newContainer(t, "echo", "hello")
	c.Spec.Linux.Seccomp = a.profile("read", "execve", "capset", "prctl", "write", "sendmsg", "sendto")
	if out := c.output(); out != "hello\n" {
		t.Errorf("output %q", out)
	}
	var calls []int
	for len(a.calls) > 0 {
		calls = append(calls, <-a.calls)
	}
	if !slices.Contains(calls, unix.SYS_EXECVE) || !slices.Contains(calls, unix.SYS_READ) {
		t.Errorf("the agent was asked about %v", calls)
	}
}

func TestSeccompAgentIsGone(t *testing.T) {
	c := newContainer(t, "true")
	c.Spec.Linux.Seccomp = (&agent{path: "/nonexistent/agent.sock"}).profile("mkdir")
	c.refused(`cannot hand the seccomp listener over to linux.seccomp.listenerPath "/nonexistent/agent.sock": no such file or directory`)
}

func TestExecAffinity(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.Spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "1", Final: "0"}
	c.start()
	allowed := func(args ...string) string {
		return strings.TrimSpace(c.must(append(append([]string{"exec"}, args...), "grep", "Cpus_allowed_list", "/proc/self/status")...))
	}
	if got := allowed(c.ID); !strings.HasSuffix(got, "\t0") {
		t.Errorf("the process may run on %q", got)
	}
}
