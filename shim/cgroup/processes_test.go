package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv("CGROUP_TEST_HOPPERS") != "" {
		hoppers()
	}
	os.Exit(m.Run())
}

// hoppers waits for a byte and becomes many processes, each of which starts its successor and ends, for ever.
func hoppers() {
	_, _ = os.Stdin.Read(make([]byte, 1))
	for range 50 {
		if pid := fork(); pid == 0 {
			for {
				if fork() > 0 {
					_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
				}
			}
		}
	}
	os.Exit(0)
}

// fork is fork(2). The child has only the calling thread, and may do nothing but system calls.
func fork() int {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return -1
	}
	return int(pid)
}

// newCgroup makes a cgroup for a test, of at most 500 processes.
func newCgroup(t *testing.T) Cgroup {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a cgroup")
	}
	name := fmt.Sprintf("berth-test-shim-%d", os.Getpid())
	c := Cgroup{unified: filepath.Join(root, name)}
	dirs := []string{c.unified}
	if !isUnified() {
		c = Cgroup{v1: map[string]string{"pids": filepath.Join(root, "pids", name), "freezer": filepath.Join(root, "freezer", name)}}
		dirs = []string{c.v1["pids"], c.v1["freezer"]}
	}
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for deadline := time.Now().Add(20 * time.Second); os.Remove(dir) != nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Errorf("%s can't be removed", dir)
					return
				}
			}
		})
	}
	if err := os.WriteFile(filepath.Join(dirs[0], "pids.max"), []byte("500"), 0); err != nil {
		t.Logf("the processes are not limited: %v", err)
	}
	return c
}

func (c Cgroup) join(t *testing.T, pid int) {
	t.Helper()
	for _, dir := range []string{c.unified, c.v1["pids"], c.v1["freezer"]} {
		if dir == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKillOfProcessesThatFork: a process that is found has started its successor and ended before it is killed, and numbers
// of processes come again. So they are stopped first.
func TestKillOfProcessesThatFork(t *testing.T) {
	c := newCgroup(t)
	t.Cleanup(func() { _ = c.Kill() })
	bomb := exec.Command("/proc/self/exe")
	bomb.Env = append(os.Environ(), "CGROUP_TEST_HOPPERS=1")
	input, err := bomb.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := bomb.Start(); err != nil {
		t.Fatal(err)
	}
	c.join(t, bomb.Process.Pid)
	if _, err := input.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	_ = bomb.Wait() // its successors may have left no room for a thread of its own

	c.stop()
	before, err := c.Pids()
	if err != nil || len(before) == 0 {
		t.Fatalf("processes %v, %v", before, err)
	}
	for range 100 {
		if after, err := c.Pids(); err != nil || !slices.Equal(before, after) {
			t.Fatalf("from %v to %v, %v", before, after, err)
		}
	}
	if err := c.thaw(); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		pids, err := c.Pids()
		if err != nil {
			t.Fatal(err)
		}
		if len(pids) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d processes are left", len(pids))
		}
	}
}

// TestPidsWithThreadedCgroups: a container that may make cgroups must not hide its processes by one that lists none.
func TestPidsWithThreadedCgroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a cgroup")
	}
	mount := root
	if !isUnified() {
		mount = filepath.Join(root, "unified")
	}
	dir := filepath.Join(mount, fmt.Sprintf("berth-test-threaded-%d", os.Getpid()))
	below := filepath.Join(dir, "threaded")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = os.Remove(below), os.Remove(dir) })
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(below, "cgroup.type"), []byte("threaded"), 0); errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		t.Skipf("no cgroups of version 2 here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	process := exec.Command("sleep", "1000")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Wait() })
	t.Cleanup(func() { _ = process.Process.Kill() })
	c := Cgroup{unified: dir}
	c.join(t, process.Process.Pid)
	if pids, err := c.Pids(); err != nil || !slices.Equal(pids, []int{process.Process.Pid}) {
		t.Errorf("processes %v, %v", pids, err)
	}
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait()
}
