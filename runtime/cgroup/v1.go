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

// v1 is a cgroup in every mounted hierarchy of cgroup v1, and on hybrid hosts in the one of v2 too.
type v1 struct {
	paths   map[string]string // by controller; "" for the v2 hierarchy of a hybrid host
	dirs    []string          // the same without repetition, v2's left out
	unified int               // descriptor of the v2 directory, or -1
	barred  bool
}

func createV1(config Config) (_ Cgroup, err error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errdefs.As(errdefs.ErrFailedPrecondition, errors.New("no cgroup hierarchy is mounted on this host"))
	}
	if os.Geteuid() != 0 {
		config.Founded = nil // whether the user may make the cgroup shows later
		if h := all[0]; len(all) > 1 && h.controllers == nil && !mayMove(filepath.Join(h.mount, h.own), h.path(config)) {
			all = all[1:] // v2 has few controllers here, and can be done without by who was given a part of the others
		}
	}
	c := &v1{paths: map[string]string{}, unified: -1}
	for _, h := range all {
		c.note(h, h.path(config))
	}
	if err := config.planned(c.paths); err != nil {
		return nil, err
	}
	var undo cleanup.Stack
	defer func() { err = undo.Run(context.Background(), err) }()
	undo.Add(func(context.Context) error { return c.Close() })
	if all[0].controllers == nil {
		if err := c.make(all[0], config, &undo); err != nil {
			return nil, err
		}
		all = all[1:]
	}
	if err := config.founded(c, &undo); err != nil {
		return nil, err
	}
	for _, h := range all {
		if err := c.make(h, config, &undo); err != nil {
			return nil, err
		}
	}
	if err := c.limit(config.Resources, true); err != nil {
		return nil, err
	}
	return c, nil
}

// make makes the cgroup's directory in h.
func (c *v1) make(h hierarchy, config Config, undo *cleanup.Stack) error {
	dir := h.path(config)
	made, err := makeDirs(h.mount, dir)
	undo.Add(func(context.Context) error { return removeEmpty(made) })
	if err != nil {
		return err
	}
	if len(made) == 0 && !config.held {
		if err := refuseOccupied(dir); err != nil {
			return err
		}
	}
	switch {
	case h.controllers == nil:
		err = refuseFrozen(dir, (&v2{dir: dir}).Frozen)
	case slices.Contains(h.controllers, "freezer"):
		err = refuseFrozen(dir, c.Frozen)
	}
	if err != nil {
		return err
	}
	return c.adopt(h, dir, made)
}

// note remembers where the cgroup is in h.
func (c *v1) note(h hierarchy, dir string) {
	if h.controllers == nil {
		c.paths[""] = dir
		return
	}
	c.dirs = append(c.dirs, dir)
	for _, controller := range h.controllers {
		c.paths[controller] = dir
	}
}

// adopt takes a directory that exists now for the cgroup's in h, and makes it fit for processes.
func (c *v1) adopt(h hierarchy, dir string, made []string) error {
	if h.controllers == nil {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("cannot open the cgroup: %w", &os.PathError{Op: "open", Path: dir, Err: err})
		}
		c.unified = fd
		return nil
	}
	if slices.Contains(h.controllers, "cpuset") {
		return inheritCpuset(made)
	}
	return nil
}

func loadV1(paths map[string]string) *v1 {
	c := &v1{paths: paths, unified: -1}
	for controller, dir := range paths {
		if controller == "" {
			if fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
				c.unified = fd
			}
		} else if !slices.Contains(c.dirs, dir) {
			c.dirs = append(c.dirs, dir)
		}
	}
	slices.Sort(c.dirs)
	return c
}

// inheritCpuset gives new cpuset cgroups their parents' processors and memory nodes: v1 starts with none of either,
// and refuses processes in such a cgroup.
func inheritCpuset(made []string) error {
	for _, dir := range made {
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := provided(filepath.Dir(dir), file)
			if err != nil {
				return fmt.Errorf("cannot read the parent's processors: %w", err)
			}
			if err := kernelfile.Write(filepath.Join(dir, file), value); err != nil {
				return fmt.Errorf("cannot hand the parent's processors down: %w", err)
			}
		}
	}
	return nil
}

// provided returns what a cpuset cgroup has, after it was given what those above it have if it was made by somebody
// who did not. The topmost has everything.
func provided(dir, file string) (string, error) {
	content, err := kernelfile.ReadOnce(filepath.Join(dir, file))
	value := strings.TrimSpace(string(content))
	if err != nil || value != "" {
		return value, err
	}
	if value, err = provided(filepath.Dir(dir), file); err != nil {
		return "", err
	}
	return value, kernelfile.Write(filepath.Join(dir, file), value)
}

func (c *v1) DirFD() int { return c.unified }

func (c *v1) JoinFiles() []string {
	files := make([]string, 0, len(c.dirs))
	for _, dir := range c.dirs {
		files = append(files, filepath.Join(dir, "tasks"))
	}
	return files
}

func (c *v1) Add(pid int) error {
	dirs := c.dirs
	if dir, ok := c.paths[""]; ok {
		dirs = append(slices.Clone(dirs), dir)
	}
	for _, dir := range dirs {
		if err := addProcess(dir, pid); err != nil {
			return err
		}
	}
	return nil
}

func (c *v1) Barred() bool { return c.barred }

func (c *v1) Update(resources *specs.LinuxResources) error { return c.limit(resources, false) }

// setFreezer moves all processes to the state FROZEN or THAWED.
func (c *v1) setFreezer(state string) error {
	dir, ok := c.paths["freezer"]
	if !ok {
		return errdefs.As(errdefs.ErrFailedPrecondition, errors.New("cannot pause the container: the freezer hierarchy is not mounted"))
	}
	return freezeV1(filepath.Join(dir, "freezer.state"), state)
}

func (c *v1) Freeze() error { return c.setFreezer("FROZEN") }

func (c *v1) Thaw() error { return c.setFreezer("THAWED") }

func (c *v1) Frozen() (bool, error) {
	dir, ok := c.paths["freezer"]
	if !ok {
		return false, nil
	}
	// FREEZING counts: whoever asks wants to know whether a thaw is due.
	state, err := kernelfile.ReadOnce(filepath.Join(dir, "freezer.state"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read whether the container is paused: %w", err)
	}
	return strings.TrimSpace(string(state)) != "THAWED", nil
}

func (c *v1) Kill() error {
	if pids, err := c.Pids(); err == nil && len(pids) == 0 {
		return nil
	}
	frozen := c.Freeze() == nil // so that nothing can fork while it is being killed
	pids, err := c.Pids()
	for _, pid := range pids {
		if killErr := unix.Kill(pid, unix.SIGKILL); killErr != nil && killErr != unix.ESRCH {
			err = errors.Join(err, fmt.Errorf("cannot kill process %d: %w", pid, killErr))
		}
	}
	if frozen {
		err = errors.Join(err, c.Thaw())
	}
	return err
}

// Pids asks one hierarchy, as all hold the same processes; the devices one if there, as runc does.
func (c *v1) Pids() ([]int, error) {
	for _, controller := range []string{"devices", "pids", "memory", "freezer"} {
		if dir, ok := c.paths[controller]; ok {
			return processes(dir)
		}
	}
	if len(c.dirs) == 0 {
		return nil, nil
	}
	return processes(c.dirs[0])
}

func (c *v1) Delete() error {
	deadline := time.Now().Add(removePatience) // for all together
	var errs []error
	for _, dir := range c.dirs {
		errs = append(errs, removeTree(dir, deadline))
	}
	if dir, ok := c.paths[""]; ok {
		errs = append(errs, removeTree(dir, deadline))
	}
	return errors.Join(errs...)
}

func (c *v1) Paths() map[string]string { return c.paths }

func (c *v1) Close() error {
	if c.unified < 0 {
		return nil
	}
	fd := c.unified
	c.unified = -1
	return unix.Close(fd)
}

func addProcess(dir string, pid int) error {
	if err := kernelfile.Write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("cannot add process %d to the cgroup: %w", pid, err)
	}
	return nil
}
