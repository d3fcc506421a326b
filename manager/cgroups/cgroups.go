// Package cgroups ends what is left in a container's cgroup when its shim, or the OCI runtime, can't be asked to.
package cgroups

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// Group is a cgroup with all below it, in each hierarchy that has it.
type Group struct{ path string }

// At returns the cgroup at a path below the mounts of the hierarchies. It need not exist.
func At(path string) Group { return Group{filepath.Join("/", path)} }

// mounts are the hierarchies: the unified one, or those of cgroup v1 and what is mounted beside them.
func mounts() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	found, _ := filepath.Glob("/sys/fs/cgroup/*")
	return slices.DeleteFunc(found, func(dir string) bool {
		info, err := os.Lstat(dir)
		return err != nil || !info.IsDir() // cpu is a link to cpu,cpuacct
	})
}

// dirs are the directories of the group and of the groups below it, parents first.
func (g Group) dirs() []string {
	var found []string
	if g.path == "/" { // that would be the whole host
		return nil
	}
	for _, mount := range mounts() {
		_ = filepath.WalkDir(filepath.Join(mount, g.path), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				found = append(found, path)
			}
			return nil // a group that has gone meanwhile is no error
		})
	}
	return found
}

// Pids lists the processes in the group.
func (g Group) Pids() []int {
	var pids []int
	for _, dir := range g.dirs() {
		content, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for field := range bytes.FieldsSeq(content) {
			if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// Frozen tells whether the group, or one below it, is frozen.
func (g Group) Frozen() bool {
	return slices.ContainsFunc(g.dirs(), func(dir string) bool {
		for name, frozen := range map[string]string{"freezer.state": "FROZEN", "cgroup.freeze": "1"} {
			content, err := os.ReadFile(filepath.Join(dir, name))
			state := strings.TrimSpace(string(content))
			if err == nil && (state == frozen || state == "FREEZING") {
				return true
			}
		}
		return false
	})
}

// Thaw lets the group and those below it go on. Frozen processes of cgroup v1 do not even end by SIGKILL.
func (g Group) Thaw() error {
	var errs []error
	for _, dir := range g.dirs() {
		for name, thawed := range map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"} {
			err := write(filepath.Join(dir, name), thawed)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) { // removed since, or removed after the opening
				errs = append(errs, fmt.Errorf("cannot thaw cgroup %q: %w", g.path, err))
			}
		}
	}
	return errors.Join(errs...)
}

// write writes a control file, and makes none where there is none.
func write(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}

// Kill thaws the group, kills its processes and waits for their end, until ctx ends. A process that the kernel holds, as one
// that waits for a disk, may stay.
func (g Group) Kill(ctx context.Context) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		pids := g.Pids()
		if len(pids) == 0 {
			return nil
		}
		err := g.Thaw()
		for _, pid := range pids {
			err = errors.Join(err, g.kill(pid))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("cannot end process %d in cgroup %q: it is still there after SIGKILL", pids[0], g.path))
		}
	}
}

// kill kills a process that is in the group. The descriptor comes before the look at its cgroup: the number may be that of
// another process by now.
func (g Group) kill(pid int) error {
	fd, err := sys.PidfdOpen(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer func() { _ = unix.Close(fd) }()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !strings.Contains(string(content), g.path) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return g.leaveFreezer(pid)
}

// leaveFreezer moves a killed process to the root of cgroup v1's freezer if a group above this one is frozen: it would not end,
// and what else is in the group above is not to be thawed for it.
func (g Group) leaveFreezer(pid int) error {
	for _, mount := range mounts() {
		above, err := os.ReadFile(filepath.Join(mount, g.path, "freezer.parent_freezing"))
		if err != nil || strings.TrimSpace(string(above)) != "1" {
			continue
		}
		if err := write(filepath.Join(mount, "cgroup.procs"), strconv.Itoa(pid)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cannot move process %d out of a frozen cgroup: %w", pid, err)
		}
	}
	return nil
}

// Remove removes the group and those below it, as far as they have no members. A group that is in use stays: the kernel sees
// to that.
func (g Group) Remove() {
	for _, dir := range slices.Backward(g.dirs()) {
		_ = unix.Rmdir(dir)
	}
}

// RemoveOne is Remove for a group that may have others below it, which stay, and it with them.
func (g Group) RemoveOne() {
	for _, mount := range mounts() {
		if g.path != "/" {
			_ = unix.Rmdir(filepath.Join(mount, g.path))
		}
	}
}
