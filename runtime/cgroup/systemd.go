package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/kernelfile"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/namespace"
	"github.com/berthd/berth/runtime/systemd"
)

// scope is a cgroup that systemd has made, as a unit of its own, and handed over to us. We write the limits to the
// files as in any other, for systemd knows only some of them, and tell it those that it knows: it may write them
// again, as when it is reloaded.
type scope struct {
	Cgroup
	unit   string
	holder *launch.Process

	// distant is a scope that only systemd may move our processes to: that takes the right to write to the cgroup that
	// it and ours have in common, which a user who has logged in lacks.
	distant bool
}

// unitName is cgroupsPath, taken apart: slice:prefix:name.
type unitName struct{ slice, unit string }

func parseUnit(config Config) (unitName, error) {
	refuse := func(why string) (unitName, error) {
		return unitName{}, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("field linux.cgroupsPath: %q %s", config.Path, why))
	}
	slice, prefix, name := "", "berth", config.ID
	if config.Path != "" {
		parts := strings.Split(config.Path, ":")
		if len(parts) != 3 {
			return refuse("is not of the form slice:prefix:name, which systemd wants")
		}
		slice, prefix, name = parts[0], parts[1], parts[2]
	}
	if slice == "" {
		slice = "system.slice"
		if ordinary() {
			slice = "user.slice"
		}
	}
	if strings.HasSuffix(name, ".slice") {
		return refuse("names a slice: a container needs a scope")
	}
	if prefix != "" {
		name = prefix + "-" + name
	}
	if name == "" || strings.ContainsAny(name+slice, "/\x00 ") || len(name) > 200 {
		return refuse("has characters that no unit's name can have")
	}
	return unitName{slice, name + ".scope"}, nil
}

// path is where systemd puts a slice: a-b.slice is in a.slice, and -.slice is the top.
func slicePath(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if name == "-" && ok {
		return "", nil
	}
	if !ok || name == "" || strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") || strings.Contains(name, "--") {
		return "", errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("field linux.cgroupsPath: %q is not the name of a slice", slice))
	}
	var full, prefix string
	for part := range strings.SplitSeq(name, "-") {
		prefix += part
		full += "/" + prefix + ".slice"
		prefix += "-"
	}
	return full, nil
}

func createScope(config Config) (_ Cgroup, err error) {
	name, err := parseUnit(config)
	if err != nil {
		return nil, err
	}
	below, err := slicePath(name.slice)
	if err != nil {
		return nil, err
	}
	unified, err := IsUnified()
	if err != nil {
		return nil, err
	}
	manager, err := systemd.Connect()
	if err != nil {
		return nil, err
	}
	defer func() { _ = manager.Close() }()
	root, err := manager.ControlGroup()
	if err != nil {
		return nil, err
	}
	var undo cleanup.Stack
	defer func() { err = undo.Run(context.Background(), err) }()
	holder, err := hold()
	if err != nil {
		return nil, err
	}
	s := &scope{unit: name.unit, holder: holder}
	undo.Add(func(context.Context) error { s.release(); return nil })
	config.Path, config.held, config.Founded = path.Join("/", root, below, name.unit), true, nil
	properties, err := s.properties(config, name, unified)
	if err != nil {
		return nil, err
	}
	if err := manager.StartScope(name.unit, properties); err != nil {
		return nil, err
	}
	undo.Add(func(context.Context) error { s.release(); return manager.Stop(name.unit) })
	if s.Cgroup, err = createPlain(config, unified); err != nil {
		return nil, err
	}
	s.distant = isDistant(s.Cgroup)
	return s, nil
}

// properties are all that the scope begins with. Those of annotations come last, as they are there to differ.
func (s *scope) properties(config Config, name unitName, unified bool) ([]systemd.Property, error) {
	var planned Cgroup = &v1{}
	if unified {
		planned = &v2{dir: path.Join(mountRoot, config.Path)}
	}
	limits, err := limitProperties(planned, config.Resources, true)
	if err != nil {
		return nil, err
	}
	annotated, err := systemd.ParseAnnotations(config.Annotations)
	if err != nil {
		return nil, err
	}
	return slices.Concat(scopeProperties(config, name, s.holder.Pid, unified), limits, annotated), nil
}

// hold starts a process that does nothing: a scope begins with one, and the container's own comes later.
func hold() (*launch.Process, error) {
	program := launch.New()
	program.Wait()
	return launch.Fork(program, launch.Birth{CgroupFD: -1})
}

func (s *scope) release() {
	if s.holder != nil {
		s.holder.Kill()
		s.holder.Close()
		s.holder = nil
	}
}

// Close ends the process that has held the scope. The container's process must be in it by now.
func (s *scope) Close() error {
	s.release()
	return s.Cgroup.Close()
}

// Update tells systemd first, which writes the files with what it knows of the limits, rounded, and then writes them itself.
func (s *scope) Update(resources *specs.LinuxResources) error {
	properties, err := limitProperties(s.Cgroup, resources, false)
	if err != nil {
		return err
	}
	if len(properties) > 0 {
		manager, err := systemd.Connect()
		if err != nil {
			return err
		}
		if err := errors.Join(manager.SetProperties(s.unit, properties), manager.Close()); err != nil {
			return err
		}
	}
	return s.Cgroup.Update(resources)
}

// Delete stops the unit, and removes what systemd does not know of. It has to be in this order: systemd would wait for
// the news that the cgroup is empty, of a cgroup that is gone.
func (s *scope) Delete() error {
	s.release()
	manager, err := systemd.Connect()
	if err == nil {
		err = errors.Join(manager.Stop(s.unit), manager.Close())
	}
	return errors.Join(err, s.Cgroup.Delete())
}

// DirFD implements Cgroup.
func (s *scope) DirFD() int {
	if s.distant {
		return -1
	}
	return s.Cgroup.DirFD()
}

// Add implements Cgroup.
func (s *scope) Add(pid int) error {
	if !s.distant {
		return s.Cgroup.Add(pid)
	}
	manager, err := systemd.Connect()
	if err != nil {
		return err
	}
	return errors.Join(manager.Attach(s.unit, pid), manager.Close())
}

// asScope returns a loaded cgroup as a scope, if systemd is there.
func asScope(group Cgroup) Cgroup {
	for _, dir := range group.Paths() {
		if systemd.Available() {
			return &scope{Cgroup: group, unit: path.Base(dir), distant: isDistant(group)}
		}
		break
	}
	return group
}

// IsScope tells whether paths look like those of a scope. States of version 1 don't say whether systemd made the cgroup.
func IsScope(paths map[string]string) bool {
	for _, dir := range paths {
		return strings.HasSuffix(dir, ".scope") && (strings.Contains(dir, ".slice/") || strings.Contains(dir, ".service/"))
	}
	return false
}

// Distant tells whether a process gets into the cgroup by Add alone: it can neither be born there nor join it by itself.
func Distant(group Cgroup) bool {
	s, ok := group.(*scope)
	return ok && s.distant
}

// ordinary tells whether the runtime is somebody whom the kernel does not take for root.
func ordinary() bool { return os.Geteuid() != 0 || namespace.InUsers() }

// isDistant tells whether this process may not move others from its own cgroup to group.
func isDistant(group Cgroup) bool {
	c, ok := group.(*v2)
	if !ok || !ordinary() {
		return false
	}
	content, err := kernelfile.ReadOnce("/proc/self/cgroup")
	if err != nil {
		return false
	}
	return !mayMove(path.Join(mountRoot, path.Join("/", ownV2(string(content)))), c.dir)
}

// mayMove tells whether this process may move others of v2's cgroup own to another one, which takes a right to the
// cgroup that is above both.
func mayMove(own, other string) bool {
	common := other
	for own != common && !strings.HasPrefix(own, common+"/") && common != "/" {
		common = path.Dir(common)
	}
	return unix.Access(path.Join(common, "cgroup.procs"), unix.W_OK) == nil
}
