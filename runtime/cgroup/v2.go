package cgroup

import (
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

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/kernelfile"
)

// v2 is a cgroup of the unified hierarchy.
type v2 struct {
	dir    string
	fd     int
	barred bool
}

func createV2(config Config) (_ Cgroup, err error) {
	h := hierarchy{mount: mountRoot}
	if !filepath.IsAbs(config.Path) {
		content, err := kernelfile.ReadOnce("/proc/self/cgroup")
		if err != nil {
			return nil, fmt.Errorf("cannot read the runtime's own cgroup: %w", err)
		}
		h.own = ownV2(string(content))
	}
	dir := h.path(config)
	if dir == mountRoot {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("linux.cgroupsPath: %q is the root of all cgroups", config.Path))
	}
	if err := config.planned(map[string]string{"": dir}); err != nil {
		return nil, err
	}
	var undo cleanup.Stack
	defer func() { err = undo.Run(context.Background(), err) }()
	made, err := makeDirs(mountRoot, dir)
	undo.Add(func(context.Context) error { return removeEmpty(made) })
	if err != nil {
		return nil, err
	}
	if len(made) == 0 && !config.held {
		if err := refuseOccupied(dir); err != nil {
			return nil, err
		}
	}
	if err := refuseFrozen(dir, (&v2{dir: dir}).Frozen); err != nil {
		return nil, err
	}
	if err := enableControllers(dir); err != nil {
		return nil, err
	}
	c, err := loadV2(dir)
	if err != nil {
		return nil, err
	}
	undo.Add(func(context.Context) error { return c.Close() })
	if err := config.founded(c, &undo); err != nil {
		return nil, err
	}
	if err := c.limit(config.Resources, true); err != nil {
		return nil, err
	}
	if config.Owner != 0 {
		if err := delegate(dir, config.Owner); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func loadV2(dir string) (*v2, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return &v2{dir: dir, fd: -1}, nil // its limits can't be changed any more, but deleting it still has to work
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the cgroup: %w", &os.PathError{Op: "open", Path: dir, Err: err})
	}
	return &v2{dir: dir, fd: fd}, nil
}

// Of opens the cgroup of v2 that a process of the container is in, which may be below the container's own.
func Of(pid int, paths map[string]string) (Cgroup, error) {
	content, err := kernelfile.Read(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, fmt.Errorf("cannot find the cgroup of the container's process: %w", err)
	}
	dir := filepath.Join(mountRoot, ownV2(string(content)))
	if top, ok := paths[""]; !ok || dir != top && !strings.HasPrefix(dir, top+"/") {
		return nil, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("the container's process has left its cgroup, and is in %q", dir))
	}
	return loadV2(dir)
}

// ownV2 is the path in a content of /proc/PID/cgroup.
func ownV2(content string) string {
	_, own, _ := strings.Cut(content, "0::")
	own, _, _ = strings.Cut(own, "\n")
	return own
}

// delegate gives a user the directory and what the kernel says has to go with it. The limits stay ours.
func delegate(dir string, owner uint32) error {
	files := []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}
	if list, err := kernelfile.Read("/sys/kernel/cgroup/delegate"); err == nil {
		files = strings.Fields(string(list))
	}
	for _, file := range append(files, ".") {
		err := os.Chown(filepath.Join(dir, file), int(owner), -1)
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist): // a file of a controller that is not here
		case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0: // an ordinary user can't give to others
		default:
			return fmt.Errorf("cannot delegate the cgroup to user %d: %w", owner, err)
		}
	}
	return nil
}

// enableControllers makes every controller of the host available in dir. Usually all are, as an earlier container in
// the same parent needed them too, and then two small files are all that is read.
func enableControllers(dir string) error {
	all, err := controllers(mountRoot)
	if err != nil {
		return err
	}
	here, err := controllers(dir)
	if err != nil {
		return err
	}
	if len(here) == len(all) {
		return nil
	}
	relative := strings.TrimPrefix(filepath.Dir(dir), mountRoot)
	parent := mountRoot
	for name := range strings.SplitSeq(relative, "/") {
		parent = filepath.Join(parent, name)
		if err := enableIn(parent, all); err != nil {
			return err
		}
	}
	return nil
}

// enableIn hands the controllers that parent has to its children. A controller that can't be handed on (realtime
// processes and cpu, a threaded cgroup) is left out: it is an error only for who sets a limit of it.
func enableIn(parent string, wanted []string) error {
	available, err := controllers(parent)
	if err != nil {
		return err
	}
	file := filepath.Join(parent, "cgroup.subtree_control")
	content, err := kernelfile.Read(file)
	if err != nil {
		return fmt.Errorf("cannot read the enabled controllers: %w", err)
	}
	enabled := strings.Fields(string(content))
	var missing []string
	for _, controller := range wanted {
		if slices.Contains(available, controller) && !slices.Contains(enabled, controller) {
			missing = append(missing, "+"+controller)
		}
	}
	if len(missing) == 0 || kernelfile.Write(file, strings.Join(missing, " ")) == nil {
		return nil
	}
	for _, controller := range missing {
		_ = kernelfile.Write(file, controller)
	}
	return nil
}

func controllers(dir string) ([]string, error) {
	content, err := kernelfile.Read(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the available controllers: %w", err)
	}
	return strings.Fields(string(content)), nil
}

func (c *v2) DirFD() int { return c.fd }

func (c *v2) JoinFiles() []string { return nil }

func (c *v2) Add(pid int) error { return addProcess(c.dir, pid) }

func (c *v2) Barred() bool { return c.barred }

func (c *v2) Update(resources *specs.LinuxResources) error { return c.limit(resources, false) }

func (c *v2) Freeze() error { return freezeV2(c.dir, true) }

func (c *v2) Thaw() error { return freezeV2(c.dir, false) }

func (c *v2) Frozen() (bool, error) {
	state, err := kernelfile.Read(filepath.Join(c.dir, "cgroup.freeze"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read whether the container is paused: %w", err)
	}
	if strings.TrimSpace(string(state)) == "1" {
		return true, nil
	}
	// It also stops with a cgroup above it, of which only the events tell.
	events, err := kernelfile.Read(filepath.Join(c.dir, "cgroup.events"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("cannot read whether the container is paused: %w", err)
	}
	return strings.Contains(string(events), "frozen 1"), nil
}

func (c *v2) Kill() error {
	err := kernelfile.Write(filepath.Join(c.dir, "cgroup.kill"), "1")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot kill the container's processes: %w", err)
	}
	return nil
}

func (c *v2) Pids() ([]int, error) { return processes(c.dir) }

func (c *v2) Delete() error { return removeTree(c.dir, time.Now().Add(removePatience)) }

func (c *v2) Paths() map[string]string { return map[string]string{"": c.dir} }

func (c *v2) Close() error {
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// processes lists the members of dir and of all cgroups below it. One that goes away meanwhile has none.
func processes(dir string) ([]int, error) {
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err == unix.ENOENT || err == nil && stat.Nlink <= 2 { // no cgroup below it
		pids, err := readPids(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return nil, fmt.Errorf("cannot list the container's processes: %w", err)
		}
		return pids, nil
	}
	var pids []int
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if !entry.IsDir() {
			return nil
		}
		members, err := readPids(filepath.Join(path, "cgroup.procs"))
		pids = append(pids, members...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the container's processes: %w", err)
	}
	return pids, nil
}

func readPids(file string) ([]int, error) {
	content, err := kernelfile.Read(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil // removed meanwhile, or a threaded cgroup, whose processes the domain above lists
	case err != nil:
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(content)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("cannot understand %s: %w", file, err)
		}
		if pid != 0 && !slices.Contains(pids, pid) { // 0 is a process of another pid namespace
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
