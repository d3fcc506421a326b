package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
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
	err := c.setFreezer(false)
	if errors.Is(err, errNoFreezer) || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) { // the cgroup is gone
		return nil
	}
	return err
}

var errNoFreezer = errors.New("the container has no cgroup of the freezer")

func (c Cgroup) setFreezer(freeze bool) error {
	dir, name, values := c.unified, "cgroup.freeze", [2]string{"0", "1"}
	if dir == "" {
		dir, name, values = c.v1["freezer"], "freezer.state", [2]string{"THAWED", "FROZEN"}
	}
	if dir == "" {
		return errNoFreezer
	}
	value := values[0]
	if freeze {
		value = values[1]
	}
	return os.WriteFile(filepath.Join(dir, name), []byte(value), 0)
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

// killLimit bounds Kill. Processes that can't be stopped first can start others faster than they are found.
const killLimit = 5 * time.Second

// Kill kills the processes of the cgroup and of those below it, without the runtime's help. It does not wait for their
// ends. A container that was given no cgroup of its own is in the shim's, and is not killed.
func (c Cgroup) Kill() error {
	pids, err := c.Pids()
	if err != nil {
		return err
	}
	if slices.Contains(pids, os.Getpid()) {
		return errShared
	}
	if c.unified != "" && os.WriteFile(filepath.Join(c.unified, "cgroup.kill"), []byte("1"), 0) == nil { // Linux 5.14
		return nil
	}
	c.stop()
	return errors.Join(c.killAll(), c.thaw())
}

// killAll kills until a round finds no new process.
func (c Cgroup) killAll() error {
	signalled := map[int]bool{}
	for deadline := time.Now().Add(killLimit); ; {
		pids, err := c.Pids()
		if err != nil {
			return err
		}
		news := false
		for _, pid := range pids {
			if !signalled[pid] {
				news = true
				signalled[pid] = true
				c.killMember(pid)
			}
		}
		if !news {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot kill the processes of the cgroup: new ones still came after %v", killLimit)
		}
	}
}

// stopLimit bounds the wait for processes that are deep inside the kernel.
const stopLimit = time.Second

// stop freezes the processes, as far as that works, so that they start no others while they are killed.
func (c Cgroup) stop() {
	if self, err := Of(os.Getpid()); err != nil || c.v1["freezer"] != "" && isBelow(self.v1["freezer"], c.v1["freezer"]) {
		return // the shim would stop, too
	}
	frozen := func() bool { return strings.TrimSpace(content(c.v1["freezer"], "freezer.state")) == "FROZEN" }
	if c.unified != "" {
		frozen = func() bool { return pairs(c.unified, "cgroup.events")["frozen"] == 1 }
	}
	// A process that is forked at the wrong moment can keep version 1 from freezing until it is told again.
	for deadline := time.Now().Add(stopLimit); c.setFreezer(true) == nil && !frozen() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// killMember kills a process that is in the cgroup. The descriptor comes first: the process that is looked at then is the
// one that is killed, whatever becomes of its pid.
func (c Cgroup) killMember(pid int) {
	pidfd, err := sys.PidfdOpen(pid)
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
	return isBelow(below, dir)
}

// isBelow reports whether a cgroup's directory is dir, or below it.
func isBelow(path, dir string) bool {
	return dir != "" && (path == dir || strings.HasPrefix(path, dir+"/"))
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
