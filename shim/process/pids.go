package process

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Pids returns the pids of all processes in the container's cgroup and those below it.
func (c *Container) Pids() ([]int, error) {
	_, pid, _ := c.Init.State()
	dir, err := cgroupDir(pid)
	if err != nil {
		return nil, fmt.Errorf("cannot find the cgroup of container %q: %w", c.ID, err)
	}
	var pids []int
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) { // a cgroup that has just been removed
			return nil
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
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
		return nil, fmt.Errorf("cannot list the processes of container %q: %w", c.ID, err)
	}
	return pids, nil
}

// cgroupRoot is where every distribution mounts cgroups.
const cgroupRoot = "/sys/fs/cgroup"

// cgroupDir returns the directory of a process's cgroup: that of version 2, or with version 1 that of the pids
// hierarchy, or of another that has it.
func cgroupDir(pid int) (string, error) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	best, found := "", ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		_, rest, _ := strings.Cut(lines.Text(), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		if path == "" || path == "/" {
			continue
		}
		dir := filepath.Join(cgroupRoot, controllers, path)
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
			continue
		}
		found = dir
		if controllers == "pids" || controllers == "" {
			best = dir
		}
	}
	if best != "" {
		return best, lines.Err()
	}
	if found == "" {
		return "", errors.New("the process is in the root cgroup")
	}
	return found, lines.Err()
}
