package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/hooks"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/namespace"
	"github.com/berthd/berth/runtime/process"
)

// startHooks runs the hooks whose programs are the image's. Who makes an image must not be able to do by them what the
// container's process is not: they have its user, its capabilities, its filter, its labels and its cgroup.
func (c *Container) startHooks(spec *specs.Spec) error {
	if len(spec.Hooks.StartContainer) == 0 {
		return nil
	}
	filter := compile(spec)
	start := func(hook specs.Hook, state, output *os.File) (*launch.Process, error) {
		return c.startHook(spec, filter, hook, [2]*os.File{state, output})
	}
	state, err := c.stateInside(specs.StateCreated)
	if err != nil {
		return err
	}
	return hooks.RunBy(start, "startContainer", spec.Hooks.StartContainer, state)
}

func (c *Container) startHook(spec *specs.Spec, filter compilation, hook specs.Hook, files [2]*os.File) (*launch.Process, error) {
	group, err := c.cgroupBelow(nil)
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
		return nil, c.require("start", specs.StateCreated)
	}
	p := launch.New()
	p.Call("create", "a session", unix.SYS_SETSID)
	joinCgroup(p, group)
	process.ResetAffinity(p)
	setDumpable(p, 0)
	conf, err := hookConfig(spec.Process, filter, hook)
	if err != nil {
		return nil, err
	}
	if err := grant(&conf, way.OwnUser(), func(string) {}); err != nil { // create has warned
		return nil, err
	}
	hooks.Redirect(p, files[0], files[1])
	c.addEntry(p, way, conf)
	if err := process.Add(p, conf); err != nil {
		return nil, err
	}
	forked, err := forkInto(way, p, group)
	if err != nil {
		return nil, err
	}
	if err := c.admit(spec, forked); err != nil {
		forked.Kill()
		forked.Close()
		return nil, err
	}
	return forked, nil
}

// admit lets a hook's process execute its program.
func (c *Container) admit(spec *specs.Spec, forked *launch.Process) error {
	if _, err := forked.Expect(launch.Ready); err != nil {
		return err
	}
	if err := forked.Release(); err != nil {
		return err
	}
	return c.handOver(spec, forked.Pid, specs.StateCreated, forked)
}

// hookConfig is a hook as a process of the container.
func hookConfig(owner *specs.Process, filter compilation, hook specs.Hook) (process.Config, error) {
	own := *owner
	own.Args, own.Env, own.Cwd, own.Terminal = hooks.Args(hook), hook.Env, "/", false
	if hook.Env == nil {
		own.Env = owner.Env // which is no rule of the specification, and what hooks have come to expect
	}
	conf, err := processConfig(&own, filter)
	conf.Program, conf.Chown, conf.Bare = hook.Path, nil, hook.Env != nil
	conf.Wait = (*launch.Last).ReportAndWait // an image that is executed anew, as "#!/proc/self/exe", has nobody to report to
	return conf, err
}

// stateInside is the state for hooks in the container's namespaces: they know the first process by the pid that it has
// there.
func (c *Container) stateInside(status specs.ContainerState) (specs.State, error) {
	state := c.OCIState(status)
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Pid))
	if err != nil {
		return state, fmt.Errorf("cannot find the container's process: %w", err)
	}
	for line := range bytes.Lines(content) {
		if pids, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			fields := bytes.Fields(pids)
			state.Pid, err = strconv.Atoi(string(fields[len(fields)-1]))
		}
	}
	return state, err
}

// hookError is the failure of a hook that a container doesn't survive.
type hookError struct{ error }

func (h hookError) Unwrap() error { return h.error }

// endAfter deletes a container whose hook has failed.
func (c *Container) endAfter(err error) error {
	if failed := (hookError{}); errors.As(err, &failed) {
		return errors.Join(err, c.Delete(true)) // nothing is left to delete if the hook did that
	}
	return err
}

// afterHooks runs the last hooks for a container that could not be made, if the first have been called.
func (c *Created) afterHooks(context.Context) error {
	if c.hooked && !c.lost { // the command that deleted it has run them
		c.poststop(c.Spec.Hooks)
	}
	return nil
}

// poststop runs the hooks that come when all else of the container is gone. That one fails changes nothing any more.
func (c *Container) poststop(list *specs.Hooks) {
	if list == nil {
		return
	}
	if err := hooks.RunAll("poststop", list.Poststop, c.OCIState(specs.StateStopped)); err != nil && c.Warn != nil {
		c.Warn(err.Error())
	}
}
