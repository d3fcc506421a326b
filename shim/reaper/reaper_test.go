package reaper

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func start(t *testing.T, script string) int {
	t.Helper()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Env: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func await(t *testing.T, c *Child) Exit {
	t.Helper()
	select {
	case <-c.Exited:
		return c.Exit()
	case <-time.After(10 * time.Second):
		t.Fatal("no exit")
		return Exit{}
	}
}

// The reaper takes every child of the process: there can only be one at a time, so the stories share it.
func TestReaper(t *testing.T) {
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	t.Run("exit codes and signals", func(t *testing.T) { testStatus(t, r) })
	t.Run("dead before it is claimed", func(t *testing.T) { testDeadBeforeClaimed(t, r) })
	t.Run("an orphan becomes ours", func(t *testing.T) { testOrphan(t, r) })
	t.Run("a number that is used again", func(t *testing.T) { testReusedPid(t, r) })
	t.Run("a stranger", func(t *testing.T) { testStranger(t, r) })
	t.Run("what nobody claims is forgotten", func(t *testing.T) { testUnclaimed(t, r) })
}

func testStatus(t *testing.T, r *Reaper) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -TERM $$": 143, "kill -KILL $$": 137} {
		window := r.Open()
		child, err := window.Claim(start(t, script))
		window.Close()
		if err != nil {
			t.Fatal(err)
		}
		if got := await(t, child); got.Status != want {
			t.Errorf("%q: status %d, want %d", script, got.Status, want)
		}
	}
}

func testDeadBeforeClaimed(t *testing.T, r *Reaper) {
	window := r.Open()
	defer window.Close()
	pid := start(t, "exit 3")
	for unix.Kill(pid, 0) == nil { // until it is reaped
		time.Sleep(time.Millisecond)
	}
	child, err := window.Claim(pid)
	if err != nil {
		t.Fatal(err)
	}
	if got := await(t, child); got.Status != 3 {
		t.Errorf("status %d", got.Status)
	}
	if err := child.Signal(unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		t.Errorf("signal to a dead process: %v", err)
	}
}

func testOrphan(t *testing.T, r *Reaper) {
	dir := t.TempDir()
	window := r.Open()
	defer window.Close()
	parent, err := window.Claim(start(t, "(echo $(exec sh -c 'echo $PPID') > "+dir+"/pid; while [ ! -e "+dir+"/go ]; do sleep 0.01; done; exit 9) & exit 0"))
	if err != nil {
		t.Fatal(err)
	}
	await(t, parent)
	pid := readPid(t, dir+"/pid")
	orphan, err := window.Claim(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := await(t, orphan); got.Status != 9 {
		t.Errorf("status %d", got.Status)
	}
}

// testReusedPid: the exit of an earlier process is not that of a later one with the same number.
func testReusedPid(t *testing.T, r *Reaper) {
	before := r.Open()
	defer before.Close()
	pid := start(t, "exec sleep 1000")
	earlier := func(window uint64) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.unclaimed[pid] = unclaimedExit{Exit: Exit{Status: 77}, window: window}
	}
	earlier(before.number)
	child, err := before.Claim(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if got := await(t, child); got.Status != 137 {
		t.Errorf("status %d", got.Status)
	}
	earlier(before.number)
	window := r.Open()
	defer window.Close()
	if child, err := window.Claim(pid); err == nil {
		t.Errorf("the exit %v of before the window was taken", child.Exit())
	}
}

// testStranger: a process that is no child would never end for the reaper.
func testStranger(t *testing.T, r *Reaper) {
	window := r.Open()
	defer window.Close()
	if _, err := window.Claim(os.Getppid()); !errors.Is(err, unix.ECHILD) {
		t.Errorf("error %v", err)
	}
}

func testUnclaimed(t *testing.T, r *Reaper) {
	window := r.Open()
	pid := start(t, "exit 1")
	for unix.Kill(pid, 0) == nil {
		time.Sleep(time.Millisecond)
	}
	window.Close()
	if len(r.unclaimed) != 0 || len(r.children) != 0 {
		t.Errorf("kept %v, %v", r.unclaimed, r.children)
	}
}

func readPid(t *testing.T, path string) int {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		data, err := os.ReadFile(path)
		if err != nil || len(data) == 0 || data[len(data)-1] != '\n' {
			continue
		}
		pid := 0
		for _, c := range data[:len(data)-1] {
			pid = pid*10 + int(c-'0')
		}
		return pid
	}
	t.Fatal("no pid was written")
	return 0
}
