package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// CgroupParent is the cgroup that the containers of this test binary are below, in every hierarchy. It stays after them, as
// with runc: a binary whose tests use it has Main as its TestMain.
var CgroupParent = fmt.Sprintf("/berth-test-%d", os.Getpid())

// Main runs the tests, on other threads than the main one, and removes CgroupParent. The main thread can't end, and /proc/self
// shows its namespaces: a test that changes those of its thread would change them for all that follow.
func Main(m *testing.M) {
	runtime.LockOSThread()
	status := m.Run()
	if err := RemoveCgroups(CgroupParent); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = max(status, 1)
	}
	os.Exit(status)
}

// RemoveCgroups removes a cgroup and those below it in every hierarchy, when the last process has left them: the monitor of
// an engine may be about to end.
func RemoveCgroups(path string) error {
	dirs, err := filepath.Glob("/sys/fs/cgroup/*" + path)
	if err != nil {
		return err
	}
	for _, dir := range append(dirs, "/sys/fs/cgroup"+path) {
		for deadline := time.Now().Add(Patience(10 * time.Second)); ; time.Sleep(10 * time.Millisecond) {
			err := removeCgroupTree(dir)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("cannot remove the cgroups of a test: %w", err)
			}
		}
	}
	return nil
}

// Hierarchies returns where the host's hierarchies of cgroups are mounted, without links to them, as cpu is one to
// cpu,cpuacct on many hosts.
func Hierarchies() ([]string, error) {
	if exists("/sys/fs/cgroup/cgroup.procs") {
		return []string{"/sys/fs/cgroup"}, nil
	}
	procs, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	var dirs []string
	for _, path := range procs {
		dir := filepath.Dir(path)
		if info, err := os.Lstat(dir); err == nil && info.IsDir() {
			dirs = append(dirs, dir)
		}
	}
	return dirs, err
}

func removeCgroupTree(top string) error {
	var file unix.Statfs_t
	if unix.Statfs(top, &file) == nil && file.Type == unix.TMPFS_MAGIC {
		return os.RemoveAll(top) // crun writes plain files where a hierarchy that the kernel names is not mounted
	}
	var dirs []string
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, dir := range slices.Backward(dirs) {
		// Not by os.Remove, which tries to remove a file first and answers with that error.
		if e := unix.Rmdir(dir); e != nil && !errors.Is(e, unix.ENOENT) {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: e}
		}
	}
	return err
}
