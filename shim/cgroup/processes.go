package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Frozen reports whether the cgroup's processes are stopped, or about to be.
func (c Cgroup) Frozen() bool {
	if c.unified != "" {
		return strings.TrimSpace(content(c.unified, "cgroup.freeze")) == "1"
	}
	state := strings.TrimSpace(content(c.v1["freezer"], "freezer.state"))
	return state != "" && state != "THAWED"
}

// thaw lets the processes go on, so that they can take a signal.
func (c Cgroup) thaw() error {
	path, value := filepath.Join(c.unified, "cgroup.freeze"), "0"
	if c.unified == "" {
		path, value = filepath.Join(c.v1["freezer"], "freezer.state"), "THAWED"
	}
	return os.WriteFile(path, []byte(value), 0)
}

// IsNamed reports whether the cgroup, or one that it is below, has the name of the container, as managers choose it.
func (c Cgroup) IsNamed(id string) bool {
	for part := range strings.SplitSeq(c.processDir(), "/") {
		if part == id || strings.HasSuffix(part, "-"+id+".scope") {
			return true
		}
	}
	return false
}

// errShared says that the cgroup isn't the container's alone.
var errShared = errors.New("cannot kill the processes of the cgroup: the shim is among them")

// Kill kills the processes of the cgroup and of those below it, without the runtime's help. It does not wait for their
// ends. A container that was given no cgroup of its own is in the shim's, and is not killed.
func (c Cgroup) Kill() error {
	signalled := map[int]bool{}
	for {
		pids, err := c.Pids()
		if err != nil {
			return err
		}
		if slices.Contains(pids, os.Getpid()) {
			return errShared
		}
		// Processes fork while they are looked at: only a round that finds no new one is the last.
		news := false
		for _, pid := range pids {
			if !signalled[pid] {
				news = true
				signalled[pid] = true
				c.killMember(pid)
			}
		}
		if !news {
			break
		}
	}
	if c.Frozen() {
		return c.thaw()
	}
	return nil
}

// killMember kills a process that is in the cgroup. The descriptor comes first: the process that is looked at then is the
// one that is killed, whatever becomes of its pid.
func (c Cgroup) killMember(pid int) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer func() { _ = unix.Close(pidfd) }()
	if of, err := Of(pid); err == nil && c.holds(of) {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	}
}

// holds reports whether the other cgroup is this one, or below it.
func (c Cgroup) holds(other Cgroup) bool {
	dir := c.processDir()
	below := other.unified
	if c.unified == "" {
		for controller, path := range c.v1 {
			if path == dir {
				below = other.v1[controller]
			}
		}
	}
	return dir != "" && (below == dir || strings.HasPrefix(below, dir+"/"))
}

// Join moves a process into the cgroup of that path, in each hierarchy that has it.
func Join(path string, pid int) error {
	dirs := []string{filepath.Join(root, path)}
	if !isUnified() {
		var err error
		if dirs, err = filepath.Glob(root + "/*"); err != nil {
			return err
		}
		for i := range dirs {
			dirs[i] = filepath.Join(dirs[i], path)
		}
	}
	joined := false
	for _, dir := range dirs {
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		switch {
		case err == nil:
			joined = true
		case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR):
			return err
		}
	}
	if !joined {
		return &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	}
	return nil
}
