// Package cgroup reads what the kernel knows of a container's cgroup: its processes, what they use, and whether the
// kernel had to kill one for want of memory. The runtime makes and removes the cgroup.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// root is where every distribution mounts cgroups.
const root = "/sys/fs/cgroup"

// Cgroup is the cgroup of one container.
type Cgroup struct {
	unified string            // its directory, with version 2
	v1      map[string]string // its directories by controller, with version 1
}

// Of returns the cgroup that a process is in.
func Of(pid int) (Cgroup, error) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return Cgroup{}, fmt.Errorf("cannot find the cgroup of process %d: %w", pid, err)
	}
	defer func() { _ = f.Close() }()
	c, err := parse(f, isUnified())
	if err != nil {
		return Cgroup{}, fmt.Errorf("cannot find the cgroup of process %d: %w", pid, err)
	}
	return c, nil
}

func isUnified() bool {
	var stat unix.Statfs_t
	return unix.Statfs(root, &stat) == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC
}

// parse reads /proc/<pid>/cgroup, lines of <number>:<controllers>:<path>. The second part is empty for version 2.
func parse(r io.Reader, unified bool) (Cgroup, error) {
	c := Cgroup{}
	if !unified {
		c.v1 = map[string]string{}
	}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		_, rest, _ := strings.Cut(lines.Text(), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		switch {
		case path == "" || path == "/":
		case controllers == "" && unified:
			c.unified = filepath.Join(root, path)
		case controllers != "" && !unified:
			for name := range strings.SplitSeq(controllers, ",") {
				c.v1[name] = filepath.Join(root, strings.TrimPrefix(name, "name="), path)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return Cgroup{}, err
	}
	if c.unified == "" && len(c.v1) == 0 {
		return Cgroup{}, errors.New("it is in no cgroup of its own")
	}
	return c, nil
}

// processDir returns the directory that tells of the cgroup's processes.
func (c Cgroup) processDir() string {
	dir := c.unified
	for _, controller := range []string{"pids", "devices", "memory", "cpu", "freezer", "name=systemd"} {
		if dir == "" {
			dir = c.v1[controller]
		}
	}
	return dir
}

// Pids returns the processes of the cgroup and of those below it.
func (c Cgroup) Pids() ([]int, error) {
	dir := c.processDir()
	if dir == "" {
		return nil, errors.New("cannot list the processes: the container has no cgroup")
	}
	var pids []int
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) { // a cgroup that has just been removed
			return nil
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		// The processes of a threaded cgroup are listed in the one above it, and can't be read here (EOPNOTSUPP).
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		for field := range strings.FieldsSeq(string(content)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the processes: %w", err)
	}
	return pids, nil
}

// OOMKills returns how many of the cgroup's processes the kernel has killed because memory was short; 0 if that
// can't be known.
func (c Cgroup) OOMKills() uint64 {
	if c.unified != "" {
		return pairs(c.unified, "memory.events")["oom_kill"]
	}
	return pairs(c.v1["memory"], "memory.oom_control")["oom_kill"]
}
