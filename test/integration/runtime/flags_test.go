package runtime_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

func TestVersionIsWhatEnginesLookFor(t *testing.T) {
	lines := strings.Split(newContainer(t).must("--version"), "\n")
	for i, prefix := range []string{"berth-runtime version 0.", "commit: ", "spec: " + specs.Version, "go: go1.", ""} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], prefix) {
			t.Errorf("line %d of %q does not begin with %q", i, lines, prefix)
		}
	}
}

func TestHelp(t *testing.T) {
	c := newContainer(t)
	all := c.must("--help")
	for _, args := range [][]string{{"help"}, {"h"}, {}} {
		wantEqual(t, c.must(args...), all)
	}
	for line := range strings.Lines(all[strings.Index(all, "Commands:\n")+len("Commands:\n"):]) {
		name := strings.Fields(line)[0]
		if name == "help" {
			continue
		}
		help := c.must(name, "--help")
		wantContains(t, help, "Usage: "+name)
		wantEqual(t, c.must("help", name), help)
		wantEqual(t, c.must(name, "-h"), help)
	}
}

// TestRoot looks for the state where it is by default.
func TestRoot(t *testing.T) {
	c := newRootless(t)
	if r := c.as("list"); r.Status != 0 || r.Stderr != "" {
		t.Errorf("%+v", r)
	}
	info, err := os.Stat(filepath.Join(c.Bundle, "berth-runtime"))
	if err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o700 {
		t.Errorf("a user's directory is %v, %v", info.Mode(), err)
	}
	// Root of a user namespace is a user too, unless it goes by root's name.
	for name, want := range map[string]string{"1000": c.Bundle + "/berth-runtime", "root": "/run/berth-runtime"} {
		command := exec.Command("unshare", "--user", "--map-root-user", c.binary, "--debug", "list")
		command.Env = []string{"PATH=/usr/bin", "XDG_RUNTIME_DIR=" + c.Bundle, "USER=" + name}
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
		wantContains(t, testenv.Execute(t, command).Stderr, fmt.Sprintf("with the state in %q", want))
	}
	for _, root := range []string{"/", "", "../../../../../../.."} {
		if root == "" {
			continue // the directory the test is in
		}
		if r := testenv.Execute(t, exec.Command(testenv.Runtime(t), "--root", root, "list")); r.Status != 1 || !strings.Contains(r.Stderr, "--root") {
			t.Errorf("--root %q: %+v", root, r)
		}
	}
}

// TestRootlessFlag runs where no cgroup can be made.
func TestRootlessFlag(t *testing.T) {
	testenv.Peer(t, "unshare")
	c := newContainer(t, "echo", "hello")
	c.Spec.Linux.CgroupsPath = ""
	c.writeConfig()
	run := func(flag string) testenv.Outcome {
		script := "for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do mountpoint -q $dir && mount -o remount,bind,ro $dir; done; exec \"$0\" \"$@\""
		command := c.command("run", "--bundle", c.Bundle, c.ID)
		args := append([]string{"--mount", "sh", "-c", script, command.Path, flag}, command.Args[1:]...)
		return testenv.Execute(t, exec.Command("unshare", args...))
	}
	if r := run("--rootless=true"); r.Status != 0 || r.Stdout != "hello\n" {
		t.Errorf("true: %+v", r)
	}
	for _, flag := range []string{"--rootless=auto", "--rootless=false", "--rootless="} {
		if r := run(flag); r.Status != 1 || !strings.Contains(r.Stderr, "cgroup") {
			t.Errorf("%s: %+v", flag, r)
		}
	}
	c.wantFailure(`invalid value "maybe" for flag -rootless`, "--rootless", "maybe", "list")
	user := newRootless(t)
	user.spec.Process.Args = []string{"echo", "hello"}
	writeJSON(t, user.config, user.spec)
	for flag, want := range map[string]int{"--rootless=auto": 0, "--rootless=TRUE": 0, "--rootless=false": 1} {
		if r := user.as(flag, "run", user.ID); r.Status != want {
			t.Errorf("a user with %s: %+v", flag, r)
		}
	}
}

func TestDebug(t *testing.T) {
	c := newContainer(t, "true")
	if r := c.run(); r.Status != 0 || r.Stderr != "" {
		t.Errorf("without: %+v", r)
	}
	c.Flags = []string{"--debug"}
	r := c.run()
	for _, want := range []string{"debug: run [", fmt.Sprintf("debug: container %q has process ", c.ID), " ended with status 0\n"} {
		wantContains(t, r.Stderr, want)
	}
	log := filepath.Join(c.Bundle, "log")
	c.Flags = []string{"--debug", "--log", log, "--log-format", "json"}
	if r := c.run(); r.Status != 0 || r.Stderr != "" || !strings.HasPrefix(readFile(t, log), `{"level":"debug","msg":"run `) {
		t.Errorf("%+v, and the log has %s", r, readFile(t, log))
	}
}

// TestLogForPrograms: without --log, who asks for JSON gets it on stderr.
func TestLogForPrograms(t *testing.T) {
	c := newContainer(t)
	r := c.verb("--log-format", "json", "state", "nothing")
	if !strings.HasPrefix(r.Stderr, `{"level":"error","msg":"cannot find container \"nothing\"`) || !strings.HasSuffix(r.Stderr, "\"}\n") {
		t.Errorf("%+v", r)
	}
}

// TestPidFileIsAtomic: whoever waits for the file finds all of it. A relative name is relative to where the caller is.
func TestPidFileIsAtomic(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.writeConfig()
	dir := t.TempDir()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, dir, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	create := c.command("create", "--bundle", c.Bundle, "--pid-file", "pid", c.ID)
	create.Dir = dir
	if err := create.Run(); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, readFile(t, filepath.Join(dir, "pid")), strconv.Itoa(c.state().Pid))
	events := make([]byte, 4096)
	n, err := unix.Read(watch, events)
	if err != nil {
		t.Fatal(err)
	}
	var last []byte
	var mask uint32
	for at := 0; at < n; {
		length := int(events[at+12]) | int(events[at+13])<<8
		mask = uint32(events[at+4]) | uint32(events[at+5])<<8
		last = bytes.TrimRight(events[at+unix.SizeofInotifyEvent:at+unix.SizeofInotifyEvent+length], "\x00")
		if string(last) == "pid" && mask&unix.IN_CREATE != 0 {
			t.Error("the pid file was there before it was written")
		}
		at += unix.SizeofInotifyEvent + length
	}
	if string(last) != "pid" || mask&unix.IN_MOVED_TO == 0 {
		t.Errorf("the last event is %x of %q", mask, last)
	}
}

// TestPidfdSocket: the descriptor that comes is one of the process.
func TestPidfdSocket(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.writeConfig()
	receive := func(given string, args ...string) string {
		t.Helper()
		path := filepath.Join(c.Bundle, "pidfd")
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		c.leave(append(append([]string{args[0]}, "--pidfd-socket", given), args[1:]...)...)
		pidfd := receiveDescriptor(t, listener)
		defer pidfd.Close()
		for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd())) + "\n") {
			if pid, found := strings.CutPrefix(line, "Pid:\t"); found {
				return strings.TrimSpace(pid)
			}
		}
		return "not a pidfd"
	}
	wantEqual(t, receive("pidfd", "create", "--bundle", c.Bundle, c.ID), strconv.Itoa(c.state().Pid))
	pidFile := filepath.Join(c.Bundle, "pid")
	pid := receive(filepath.Join(c.Bundle, "pidfd"), "exec", "--detach", "--pid-file", pidFile, c.ID, "sleep", "1000")
	wantEqual(t, pid, readFile(t, pidFile))
}

// TestNoPivot runs in a container that may not call pivot_root, as nobody may on a ramdisk.
func TestNoPivot(t *testing.T) {
	outer, inner := newContainer(t), newContainer(t, "ls", "-d", "bin")
	inner.writeConfig()
	outer.Spec.Root.Readonly, outer.Spec.Linux.MaskedPaths, outer.Spec.Linux.ReadonlyPaths = false, nil, nil
	outer.Spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	outer.Spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"pivot_root"}, Action: specs.ActErrno}},
	}
	granted := []string{
		"CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_NET_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE",
		"CAP_FOWNER", "CAP_KILL", "CAP_AUDIT_WRITE", "CAP_NET_BIND_SERVICE",
	}
	outer.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: granted, Effective: granted, Permitted: granted}
	for _, path := range []string{testenv.Runtime(t), inner.Bundle, inner.Rootfs, "/sys/fs/cgroup"} {
		outer.Spec.Mounts = append(outer.Spec.Mounts, specs.Mount{Destination: path, Type: "bind", Source: path, Options: []string{"rbind", "rw"}})
	}
	for flag, want := range map[string]string{"--no-pivot": "bin\n", "--no-pivot=false": ""} {
		outer.Spec.Process.Args = inner.command("run", flag, "--bundle", inner.Bundle, inner.ID).Args
		r := outer.run()
		if r.Stdout != want || (r.Status == 0) != (want != "") {
			t.Errorf("%s: %+v", flag, r)
		}
	}
}

// TestNoNewKeyring looks for the session keyring, which is the container's own or the caller's.
func TestNoNewKeyring(t *testing.T) {
	if _, err := os.Stat("/proc/keys"); err != nil {
		t.Skip(err)
	}
	name := fmt.Sprintf("berth-test-%d", os.Getpid())
	for flag, want := range map[string]bool{"--no-new-keyring": true, "--no-new-keyring=false": false} {
		c := newContainer(t, "cat", "/proc/keys")
		c.Spec.Linux.MaskedPaths = nil
		c.Spec.Process.User.UID = 1000 // who sees only those that are his session's
		c.writeConfig()
		done := make(chan testenv.Outcome)
		go func() { // on a thread of its own, whose session the runtime inherits, and which ends with it
			runtime.LockOSThread()
			defer close(done)
			_, _, errno := syscall.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, uintptr(unsafe.Pointer(unsafe.StringData(name+"\x00"))), 0)
			if errno != 0 {
				t.Errorf("keyctl: %v", errno)
			}
			done <- testenv.Execute(t, c.command("run", "--bundle", c.Bundle, flag, c.ID))
		}()
		if r := <-done; strings.Contains(r.Stdout, name) != want || r.Status != 0 {
			t.Errorf("%s: %+v", flag, r)
		}
	}
}

// TestIgnorePaused: the process is there, and waits with the others.
func TestIgnorePaused(t *testing.T) {
	c := sleeping(t, nil)
	c.must("pause", c.ID)
	command := c.command("exec", "--ignore-paused", c.ID, "echo", "on")
	var stdout bytes.Buffer
	command.Stdout = &stdout
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, "a second process", func() bool { return strings.Contains(c.must("ps", "-f", "json", c.ID), ",") })
	c.must("resume", c.ID)
	if err := command.Wait(); err != nil || stdout.String() != "on\n" {
		t.Errorf("%q, %v", &stdout, err)
	}
}

// TestExecCgroups names cgroups of some controllers, and leaves the process with the others in the container's.
func TestExecCgroups(t *testing.T) {
	if onV2(t) {
		t.Skip("there is one hierarchy")
	}
	c := sleeping(t, nil)
	for _, controller := range []string{"pids", "memory", "freezer"} {
		if err := os.Mkdir(filepath.Join("/sys/fs/cgroup", controller, c.Spec.Linux.CgroupsPath, "below"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lines := c.must("exec", "--cgroup", "pids,memory:below", "--cgroup", "freezer:/below/", c.ID, "cat", "/proc/self/cgroup")
	for controller, want := range map[string]bool{"pids": true, "memory": true, "freezer": true, "devices": false, "blkio": false} {
		for line := range strings.Lines(lines) {
			if strings.Contains(line, ":"+controller+":") && strings.HasSuffix(line, "/below\n") != want {
				t.Errorf("%s: %q", controller, line)
			}
		}
	}
	for want, flags := range map[string][]string{
		"names no controller":     {"--cgroup", "pids:/", "--cgroup", "below"},
		"is named more than once": {"--cgroup", "pids:/", "--cgroup", "memory,pids:/"},
		`of controller "nothing"`: {"--cgroup", "nothing:/"},
		`of controller ""`:        {"--cgroup", ":/below"},
		"no such file":            {"--cgroup", "pids:absent"},
		"is not below":            {"--cgroup", "pids:below/../../other"},
	} {
		if r := c.verb(append(append([]string{"exec"}, flags...), c.ID, "true")...); r.Status != 255 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%v: %+v, want %q", flags, r, want)
		}
	}
}

func TestExecSecurityFlags(t *testing.T) {
	c := sleeping(t, func(spec *specs.Spec) {
		spec.Process.NoNewPrivileges = true
		spec.Process.Capabilities.Inheritable, spec.Process.Capabilities.Ambient = []string{"CAP_CHOWN"}, nil
	})
	const show = "grep -E 'NoNewPrivs|CapAmb' /proc/self/status | cut -f2"
	wantEqual(t, c.must("exec", c.ID, "sh", "-c", show), "0000000000000000\n1\n")
	wantEqual(t, c.must("exec", "--no-new-privs=false", "--cap", "CAP_CHOWN", c.ID, "sh", "-c", show), "0000000000000001\n0\n")
	for flag, field := range map[string]string{"--apparmor": "apparmorProfile", "--process-label": "selinuxLabel"} {
		if _, err := os.Stat("/sys/kernel/security/apparmor"); err == nil && flag == "--apparmor" {
			continue // there is a test of the profile's effect
		}
		if r := c.verb("exec", flag, "nothing", c.ID, "true"); r.Status != 255 || !strings.Contains(r.Stderr, field) {
			t.Errorf("%s: %+v", flag, r)
		}
	}
}

// TestKillEndsThePaused: with cgroup v1 not even SIGKILL reaches the frozen.
func TestKillEndsThePaused(t *testing.T) {
	c := sleeping(t, nil)
	c.must("pause", c.ID)
	c.must("kill", c.ID, "KILL")
	testenv.WaitFor(t, "the end", func() bool { return c.state().Status == "stopped" })
	c.must("delete", c.ID)
	c.gone()
}

// TestKillEndsAllWhoShare: without a pid namespace of its own the end of the first process is not that of the others.
func TestKillEndsAllWhoShare(t *testing.T) {
	c := newContainer(t).shell("sleep 1001 & exec sleep 1000")
	c.Spec.Linux.Namespaces = withoutNamespace(c.Spec, specs.PIDNamespace)
	c.start()
	testenv.WaitFor(t, "two processes", func() bool { return strings.Count(c.must("ps", "-f", "json", c.ID), ",") == 1 })
	c.must("kill", c.ID, "KILL")
	testenv.WaitFor(t, "the end of both", func() bool { return c.must("ps", "-f", "json", c.ID) == "null\n" })
	c.wantFailure("container not running", "kill", c.ID, "KILL")
}

func TestPausedBeforeStart(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.writeConfig()
	c.leave("create", "--bundle", c.Bundle, c.ID)
	c.must("pause", c.ID)
	c.wantStatus("paused")
	c.wantFailure("it is paused", "start", c.ID)
	c.must("resume", c.ID)
	c.wantStatus("created")
	c.must("start", c.ID)
	c.wantStatus("running")
}

// TestRareSignalsAreForwarded: an init system has its own meaning for those.
func TestRareSignalsAreForwarded(t *testing.T) {
	for _, number := range []int{30, 37, 64} { // SIGPWR, SIGRTMIN+3, SIGRTMAX
		c := newContainer(t).shell(fmt.Sprintf("trap 'exit 3' %d; echo ready; while :; do sleep 0.05; done", number))
		c.writeConfig()
		command := c.command("run", "--bundle", c.Bundle, c.ID)
		stdout, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := stdout.Read(make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
		if err := command.Process.Signal(syscall.Signal(number)); err != nil {
			t.Fatal(err)
		}
		_ = command.Wait()
		wantEqual(t, command.ProcessState.ExitCode(), 3)
	}
}

// TestTerminalWithADaemon: who has left a process at the terminal gets their prompt back.
func TestTerminalWithADaemon(t *testing.T) {
	c := sleeping(t, nil)
	begin := time.Now()
	command := c.command("exec", "--tty", c.ID, "sh", "-c", "echo first; setsid sleep 30 & sleep 0.1; seq 1 500; echo last")
	r := testenv.Execute(t, command)
	if lines := strings.Fields(r.Stdout); len(lines) != 502 || lines[501] != "last" || r.Status != 0 {
		t.Errorf("%d lines: %+v", len(lines), r)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("exec waited for the daemon: %v", took)
	}
}
