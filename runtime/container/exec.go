package container

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/cgroup"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/namespace"
	"github.com/berthd/berth/runtime/process"
	"github.com/berthd/berth/runtime/terminal"
)

// ExecOptions are what exec is told.
type ExecOptions struct {
	Process *specs.Process
	Console int // a socket to send the terminal's master over, or -1
	Announcement
	PreserveFDs  int
	IgnorePaused bool
	Warn         func(text string)
	Cgroups      []string // below the container's: one PATH, or any number of CONTROLLERS:PATH

	// Connect, if set, is called when the terminal is there, and the program does not run yet.
	Connect func() error
}

// Executed is a process that exec has started.
type Executed struct{ process *launch.Process }

// Wait waits for the process to end and returns its status.
func (e *Executed) Wait() (unix.WaitStatus, error) { return e.process.Reap() }

// Process is the process itself.
func (e *Executed) Process() *launch.Process { return e.process }

// Kill ends the process.
func (e *Executed) Kill() { e.process.Kill() }

// Exec starts another process in the container. The caller has protected the runtime's binary where the process is Traced.
func (c *Container) Exec(o ExecOptions) (*Executed, error) {
	defer c.allowTracers()
	states := []specs.ContainerState{specs.StateCreated, specs.StateRunning}
	if o.IgnorePaused {
		states = append(states, Paused)
	}
	if err := c.require("exec in", states...); err != nil {
		return nil, err
	}
	spec, err := c.Spec()
	if err != nil {
		return nil, err
	}
	inherit(o.Process, spec.Process)
	if err := c.noteTracer(spec, o.Process); err != nil {
		return nil, err
	}
	filter := compile(spec)
	group, err := c.cgroupBelow(o.Cgroups)
	if err != nil {
		return nil, err
	}
	if group != nil {
		defer func() { _ = group.Close() }()
	}
	way, err := namespace.WayInto(c.Pid, spec.Linux.Namespaces)
	if err != nil {
		return nil, err
	}
	defer way.Close()
	if !c.alive() { // and so was the process that the way leads to
		return nil, c.require("exec in", states...)
	}
	into := entry{way, filter, spec.Linux.Personality, spec.Linux.MemoryPolicy}
	forked, err := c.fork(o, group, into)
	if errors.Is(err, unix.EBUSY) && group != nil && len(o.Cgroups) == 0 {
		forked, err = c.forkBeside(o, into)
	}
	if err != nil {
		return nil, err
	}
	return c.execute(spec, forked, o)
}

func (c *Container) fork(o ExecOptions, group cgroup.Cgroup, into entry) (*launch.Process, error) {
	program, err := c.execProgram(o, group, into)
	if err != nil {
		return nil, err
	}
	return forkInto(into.Way, program, group)
}

// forkInto forks a process of the container, whose program begins with joinCgroup.
func forkInto(way *namespace.Way, program *launch.Program, group cgroup.Cgroup) (*launch.Process, error) {
	birth := launch.Birth{CgroupFD: -1, Shared: !cgroup.Distant(group)}
	if group != nil {
		birth.CgroupFD = group.DirFD()
	}
	hide()
	return way.Fork(program, birth, func(process *launch.Process) error { return adopt(process, group) })
}

// addEntry adds the way into the container to the program of a process that is not yet in it.
func (c *Container) addEntry(p *launch.Program, way *namespace.Way, conf process.Config) {
	way.AddPid(p)
	conf.HoldAttributes(p)
	way.AddSetns(p)
	if !c.SharedKeyring {
		addKeyring(p, c.ID, way.OwnUser())
	}
}

// forkBeside makes the process a neighbour of the container's first one: no process may be in a cgroup of v2 that hands
// controllers on, as that of a container does in which there is a systemd.
func (c *Container) forkBeside(o ExecOptions, into entry) (*launch.Process, error) {
	group, err := cgroup.Of(c.Pid, c.Cgroups)
	if err != nil {
		return nil, err
	}
	defer func() { _ = group.Close() }()
	return c.fork(o, group, into)
}

// cgroupBelow opens the container's cgroup, or one below it. It is nil for an ordinary user's container that has none.
func (c *Container) cgroupBelow(below []string) (cgroup.Cgroup, error) {
	if len(c.Cgroups) == 0 {
		return nil, nil
	}
	if len(below) == 0 {
		return c.loadCgroup()
	}
	paths, err := pathsBelow(c.Cgroups, below)
	if err != nil {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot use --cgroup: %w", err))
	}
	if maps.Equal(paths, c.Cgroups) {
		return c.loadCgroup()
	}
	return cgroup.Load(paths)
}

// pathsBelow changes the paths of those controllers that the flags name, or of all with a flag that names none.
func pathsBelow(cgroups map[string]string, flags []string) (map[string]string, error) {
	paths, named := maps.Clone(cgroups), map[string]bool{}
	for _, given := range flags {
		controllers, path, found := strings.Cut(given, ":")
		wanted := strings.Split(controllers, ",")
		switch {
		case !found && len(flags) > 1:
			return nil, fmt.Errorf("%q names no controller, as it must where there are several", given)
		case !found:
			wanted, path = slices.Collect(maps.Keys(cgroups)), given
		}
		if path = filepath.Clean("./" + path); !filepath.IsLocal(path) {
			return nil, fmt.Errorf("%q is not below the container's cgroup", given)
		}
		for _, controller := range wanted {
			dir, ok := cgroups[controller]
			if !ok || found && controller == "" {
				return nil, fmt.Errorf("the container has no cgroup of controller %q", controller)
			}
			if named[controller] {
				return nil, fmt.Errorf("controller %q is named more than once", controller)
			}
			named[controller] = true
			dir = filepath.Join(dir, path)
			if _, err := os.Stat(dir); err != nil {
				return nil, err
			}
			paths[controller] = dir
		}
	}
	return paths, nil
}

// inherit gives a process that says nothing of its confinement or of its share of the machine that of the container's
// first one.
func inherit(process, first *specs.Process) {
	if process.ApparmorProfile == "" {
		process.ApparmorProfile = first.ApparmorProfile
	}
	if process.SelinuxLabel == "" {
		process.SelinuxLabel = first.SelinuxLabel
	}
	if len(process.Rlimits) == 0 {
		process.Rlimits = first.Rlimits
	}
	if process.Capabilities == nil {
		process.Capabilities = first.Capabilities
	}
	if process.User.Umask == nil {
		process.User.Umask = first.User.Umask
	}
	if process.OOMScoreAdj == nil {
		process.OOMScoreAdj = first.OOMScoreAdj
	}
	if process.Scheduler == nil {
		process.Scheduler = first.Scheduler
	}
	if process.IOPriority == nil {
		process.IOPriority = first.IOPriority
	}
	if process.ExecCPUAffinity == nil {
		process.ExecCPUAffinity = first.ExecCPUAffinity
	}
}

// entry is the way into a container's namespaces, and the filter that applies there.
type entry struct {
	*namespace.Way
	filter      compilation
	personality *specs.LinuxPersonality
	memory      *specs.LinuxMemoryPolicy
}

func (c *Container) execProgram(o ExecOptions, group cgroup.Cgroup, into entry) (*launch.Program, error) {
	p := launch.New()
	p.Call("create", "a session", unix.SYS_SETSID)
	addOOMScore(p, o.Process.OOMScoreAdj)
	affinity := specs.CPUAffinity{}
	if o.Process.ExecCPUAffinity != nil {
		affinity = *o.Process.ExecCPUAffinity
	}
	process.AddAffinity(p, "initial", affinity.Initial)
	joinCgroup(p, group)
	if affinity == (specs.CPUAffinity{}) {
		process.ResetAffinity(p)
	}
	process.AddAffinity(p, "final", affinity.Final)
	setDumpable(p, 0)
	conf, err := processConfig(o.Process, into.filter)
	if err != nil {
		return nil, err
	}
	if err := grant(&conf, into.OwnUser(), o.Warn); err != nil {
		return nil, err
	}
	c.addEntry(p, into.Way, conf)
	if err := addPersonality(p, into.personality); err != nil {
		return nil, err
	}
	if into.memory != nil {
		if err := process.AddMemoryPolicy(p, into.memory); err != nil {
			return nil, err
		}
	}
	if o.Process.Terminal {
		slave := terminal.Terminal{Socket: o.Console, Size: o.Process.ConsoleSize}.Add(p, terminal.OpenPtmx(p))
		conf.Terminal = &slave
	}
	conf.Preserve = o.PreserveFDs
	conf.Wait = (*launch.Last).ReportAndWait
	return p, process.Add(p, conf)
}

// execute does for the process what is done from outside, and lets it execute its program.
func (c *Container) execute(spec *specs.Spec, forked *launch.Process, o ExecOptions) (_ *Executed, err error) {
	defer func() {
		if err != nil {
			forked.Kill()
			forked.Close()
		}
	}()
	if err := writeOOMScore(forked, o.Process.OOMScoreAdj); err != nil {
		return nil, err
	}
	if err := forked.Unless(c.Class.Add(forked.Pid)); err != nil {
		return nil, err
	}
	if _, err := forked.Expect(launch.Ready); err != nil {
		return nil, err
	}
	if err := o.announce(forked); err != nil {
		return nil, err
	}
	if o.Connect != nil {
		if err := o.Connect(); err != nil {
			return nil, err
		}
	}
	if err := forked.Release(); err != nil {
		return nil, err
	}
	if err := c.handOver(spec, forked.Pid, specs.StateRunning, forked); err != nil {
		return nil, err
	}
	if err := forked.Executed(); err != nil {
		return nil, err
	}
	return &Executed{process: forked}, nil
}
