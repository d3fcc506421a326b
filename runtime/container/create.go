package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/cgroup"
	"github.com/berthd/berth/runtime/config"
	"github.com/berthd/berth/runtime/hooks"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/namespace"
	"github.com/berthd/berth/runtime/netdevice"
	"github.com/berthd/berth/runtime/resctrl"
)

// CreateOptions are what create and run are told.
type CreateOptions struct {
	Root, ID string
	Bundle   *Bundle
	Console  int // a socket to send the terminal's master over, or -1
	Announcement
	PreserveFDs  int
	Env          []string // more than what the configuration has
	Notify       bool     // give the container a socket for word that it is ready
	NoPivot      bool
	NoNewKeyring bool
	Systemd      bool
	Attached     bool        // start comes from this process, not from another over the socket
	Tolerant     func() bool // tells whether the container may do without a cgroup that can't be made
	Warn         func(text string)
}

// Created is a container whose process waits for its start.
type Created struct {
	*Container
	Spec    *specs.Spec
	filter  compilation
	process *launch.Process
	hooked  bool // the first hook has been called, which the last are to undo
	plan    *namespace.Plan
	early   *early // the process while its cgroup is being made, or nil
}

// Create makes the container. On failure nothing of it stays. The caller has protected the runtime's binary where the
// bundle is Traced.
func Create(o CreateOptions) (_ *Created, err error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	b := o.Bundle
	b.filter = compile(b.spec)
	var undo cleanup.Stack
	defer func() { err = undo.Run(context.Background(), err) }()
	plan, err := namespace.New(b.spec.Linux)
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	created, group, err := register(o, plan, &undo)
	if err != nil {
		return nil, err
	}
	if group != nil {
		defer func() { _ = group.Close() }()
	}
	if err := created.createClass(&undo); err != nil {
		return nil, err
	}
	if err := created.launch(o, group, &undo); err != nil {
		return nil, created.explain(err)
	}
	return created, o.announce(created.process)
}

// explain adds to an error what the most likely reason is that the process has died before it could say one, or found no
// memory.
func (c *Created) explain(err error) error {
	resources := c.Spec.Linux.Resources
	if (errors.Is(err, launch.ErrEnded) || errors.Is(err, unix.ENOMEM)) && resources != nil && resources.Memory != nil && resources.Memory.Limit != nil {
		return fmt.Errorf("%w (is it too much for a linux.resources.memory.limit of %d bytes?)", err, *resources.Memory.Limit)
	}
	return err
}

// Bundle is what a container is made from.
type Bundle struct {
	path     string
	document *config.Document
	spec     *specs.Spec
	filter   compilation // once it was begun
}

// ReadBundle reads the configuration in a directory. It changes nothing.
func ReadBundle(dir string) (*Bundle, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot find the bundle: %w", err)
	}
	document, err := config.Read(path)
	if err != nil {
		return nil, err
	}
	if document.Spec.Process == nil {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, errors.New("cannot create a container without process: config.json has none"))
	}
	return &Bundle{path: path, document: document, spec: document.Spec}, nil
}

// complete adds to the bundle's configuration what the caller hands over.
func (o *CreateOptions) complete() error {
	b := o.Bundle
	for _, field := range b.document.Ignored {
		o.Warn(fmt.Sprintf("%s of bundle %q: field %s: there is no such field, it is ignored", config.File, b.path, field))
	}
	b.spec.Process.Env = append(b.spec.Process.Env, o.Env...)
	if b.spec.Process.Terminal && o.Console < 0 {
		return errdefs.As(errdefs.ErrInvalidArgument, errors.New("cannot create a container with process.terminal without --console-socket"))
	}
	return nil
}

// register makes what there is of a container beside its process: its directory and its cgroup, which may be nil.
func register(o CreateOptions, plan *namespace.Plan, undo *cleanup.Stack) (*Created, cgroup.Cgroup, error) {
	b := o.Bundle
	c, err := newContainer(o.Root, o.ID)
	if err != nil {
		return nil, nil, err
	}
	created := &Created{Container: c, Spec: b.spec, filter: b.filter, plan: plan}
	c.Warn = o.Warn
	undo.Add(created.afterHooks)
	undo.Add(func(context.Context) error {
		c.Close()
		if c.lost {
			return nil
		}
		return os.RemoveAll(c.dir)
	})
	c.config, c.spec = b.document.Content, b.spec
	c.describe(b.spec, b.path)
	c.SharedKeyring = o.NoNewKeyring
	if o.Notify {
		if err := c.addReadySocket(b.spec); err != nil {
			return nil, nil, err
		}
	}
	wanted := cgroup.Config{ID: o.ID, Path: b.spec.Linux.CgroupsPath, Systemd: o.Systemd, Resources: b.spec.Linux.Resources, Annotations: b.spec.Annotations}
	wanted.Planned = func(paths map[string]string) error {
		c.Cgroups, c.Scope = paths, o.Systemd
		return c.save()
	}
	if created.mayBeginEarly() {
		wanted.Founded = func(unfinished cgroup.Cgroup) (func(), error) { return created.begin(o, unfinished) }
	}
	group, err := createCgroup(b.spec, o, wanted)
	if err != nil {
		return nil, nil, err
	}
	if group != nil {
		undo.Add(func(context.Context) error {
			if c.lost { // by now the cgroup may be that of another container
				return nil
			}
			return group.Delete()
		})
		undo.Add(func(context.Context) error {
			if created.early != nil {
				_ = group.Kill() // a frozen process can't end by itself, and Delete tells if it stays
			}
			created.abandon()
			return nil
		})
	} else {
		c.Cgroups = nil
	}
	return created, group, nil
}

// createClass makes the container's class of service, if it wants one.
func (c *Created) createClass(undo *cleanup.Stack) error {
	if c.Spec.Linux.IntelRdt == nil {
		return nil
	}
	root, err := resctrl.Mounted()
	if err != nil {
		return err
	}
	if c.Class, err = resctrl.Create(root, c.ID, c.Spec.Linux.IntelRdt); err != nil {
		return err
	}
	undo.Add(func(context.Context) error {
		if c.lost {
			return nil
		}
		return c.Class.Delete()
	})
	return c.save() // for whoever deletes what a create that was killed has left
}

// createCgroup returns nil for a tolerant user's container that has not asked for a cgroup: the user has no right to
// make one unless it was delegated, and then it was asked for. Limits can't be had without one.
func createCgroup(spec *specs.Spec, o CreateOptions, wanted cgroup.Config) (cgroup.Cgroup, error) {
	if owned(spec) {
		var err error
		if wanted.Owner, err = namespace.HostUser(spec.Linux, spec.Process.User.UID); err != nil {
			return nil, err
		}
	}
	group, err := cgroup.Create(wanted)
	if err != nil && spec.Linux.CgroupsPath == "" && !cgroup.Limits(spec.Linux.Resources) &&
		(errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)) && o.Tolerant() {
		return nil, nil
	}
	return group, err
}

// owned tells whether the container's user is to have its cgroup: if the cgroup is all that the container sees, and it
// may write there.
func owned(spec *specs.Spec) bool {
	own := namespaceOf(spec, specs.CgroupNamespace)
	return own != nil && own.Path == "" && slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool {
		return (m.Type == "cgroup" || m.Type == "cgroup2") && filepath.Clean(m.Destination) == "/sys/fs/cgroup" && !slices.Contains(m.Options, "ro")
	})
}

// newContainer makes and locks a container's directory.
func newContainer(root, id string) (*Container, error) {
	c, err := at(root, id)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(root, 0o711); err == nil {
				err = os.Mkdir(c.dir, 0o700)
			}
		}
		if errors.Is(err, fs.ErrExist) {
			return nil, errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("cannot create container %q: a container with this ID already exists", id))
		}
		if err != nil {
			return nil, fmt.Errorf("cannot create container %q: %w", id, err)
		}
	}
	if err := c.acquire(lockPatience); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Container) describe(spec *specs.Spec, bundle string) {
	c.Version, c.OCIVersion = version, specs.Version
	c.Bundle, c.Rootfs = bundle, spec.Root.Path
	if !filepath.IsAbs(c.Rootfs) {
		c.Rootfs = filepath.Join(bundle, c.Rootfs)
	}
	c.Created, c.Owner, c.Annotations = time.Now().UTC(), os.Geteuid(), spec.Annotations
}

// launch forks the container's process and takes it to where it waits for its start.
func (c *Created) launch(o CreateOptions, group cgroup.Cgroup, undo *cleanup.Stack) error {
	if c.early != nil && group.Barred() {
		c.abandon()                   // its program makes devices
		o.Warn = func(text string) {} // it has warned
	}
	kill := func(context.Context) error {
		var err error
		if group != nil && !c.lost {
			err = group.Kill() // first, as it lets frozen processes end
		}
		c.process.Kill()
		c.process.Close()
		return err
	}
	if c.early != nil {
		if err := c.finish(); err != nil {
			return err
		}
		undo.Add(kill)
		return c.settle()
	}
	plan := c.plan
	setup := c.newSetup(o, group)
	defer setup.close()
	program, err := setup.program()
	if err != nil {
		return err
	}
	if c.process, err = c.fork(program, group); err != nil {
		return err
	}
	undo.Add(kill)
	if err := adopt(c.process, group); err != nil {
		return err
	}
	if plan.UserLater() {
		if _, err := c.process.Expect(launch.Ready); err != nil {
			return err
		}
	}
	if plan.Mapped() {
		if err := c.process.Unless(namespace.WriteMappings(c.process.Pid, c.Spec.Linux)); err != nil {
			return err
		}
		if err := c.process.Release(); err != nil {
			return err
		}
	}
	if plan.ForksAgain() {
		if err := c.process.Follow(); err != nil {
			return err
		}
	}
	return c.settle()
}

// settle does for the new process what is done from outside, and waits until it has done the rest.
func (c *Created) settle() error {
	if err := writeOOMScore(c.process, c.Spec.Process.OOMScoreAdj); err != nil {
		return err
	}
	if c.Pid == 0 {
		if err := c.process.Unless(c.identify(c.process.Pid)); err != nil {
			return err
		}
	}
	if err := c.process.Unless(c.Class.Add(c.Pid)); err != nil {
		return err
	}
	if err := c.save(); err != nil {
		return err
	}
	if pauses(c.Spec) {
		if err := c.pause(); err != nil {
			return err
		}
	}
	_, err := c.process.Expect(launch.Ready)
	return err
}

// identify finds out what tells the container's process from a later one with its pid.
func (c *Created) identify(pid int) error {
	start, _, err := processTimes(pid)
	if err != nil {
		return fmt.Errorf("cannot find the container's process: %w", err)
	}
	c.Pid, c.StartTime = pid, start
	return nil
}

// pause does what comes when the namespaces are there and the root is not yet entered.
func (c *Created) pause() error {
	if _, err := c.process.Expect(launch.Ready); err != nil {
		return err
	}
	if err := netdevice.Move(c.Spec.Linux.NetDevices, c.Pid); err != nil {
		return err
	}
	if c.Spec.Hooks != nil {
		if err := c.whileCreating(func() error { return c.createHooks(c.Spec.Hooks) }); err != nil {
			return err
		}
	}
	return c.process.Release()
}

// whileCreating runs hooks of create without the lock. A mark tells commands which they call, and others that come
// meanwhile, that the container is not created yet.
func (c *Created) whileCreating(run func() error) error {
	mark := filepath.Join(c.dir, creatingFile)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return fmt.Errorf("cannot create container %q: %w", c.ID, err)
	}
	err := c.unlocked(run)
	if c.lost {
		return errors.Join(err, fmt.Errorf("cannot create container %q: it has been deleted while its hooks ran", c.ID))
	}
	return errors.Join(err, os.Remove(mark))
}

func (c *Created) createHooks(list *specs.Hooks) error {
	c.hooked = true
	state := c.OCIState(specs.StateCreating)
	//nolint:staticcheck // prestart hooks are deprecated, and still what people have
	if err := hooks.Run("prestart", list.Prestart, state); err != nil {
		return err
	}
	if err := hooks.Run("createRuntime", list.CreateRuntime, state); err != nil {
		return err
	}
	if len(list.CreateContainer) == 0 {
		return nil
	}
	var err error
	if state, err = c.stateInside(specs.StateCreating); err != nil {
		return err
	}
	inside := hooks.Inside{State: state, Pid: c.Pid, Namespaces: c.Spec.Linux.Namespaces, Dir: c.Rootfs}
	return hooks.RunInside("createContainer", list.CreateContainer, inside)
}

// addOOMScore makes an ordinary user's process set its score itself, as long as it is dumpable: then its files become root's.
func addOOMScore(p *launch.Program, score *int) {
	if score != nil && os.Geteuid() != 0 {
		p.WriteFile("set", fmt.Sprintf("process.oomScoreAdj to %d", *score), "/proc/self/oom_score_adj", strconv.Itoa(*score))
	}
}

// writeOOMScore sets it otherwise.
func writeOOMScore(process *launch.Process, score *int) error {
	if score == nil || os.Geteuid() != 0 {
		return nil
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", process.Pid), []byte(strconv.Itoa(*score)), 0); err != nil {
		return process.Unless(fmt.Errorf("cannot set process.oomScoreAdj to %d: %w", *score, err))
	}
	return nil
}
