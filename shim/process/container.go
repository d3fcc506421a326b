package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd/containerd/api/types"

	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/shim/cgroup"
	"github.com/berthd/berth/shim/reaper"
	"github.com/berthd/berth/shim/runtimecmd"
	"github.com/berthd/berth/shim/stdio"
)

// Config is what Create is given.
type Config struct {
	ID      string
	Bundle  string // absolute; also holds what the shim keeps about the container
	Scratch string // prefix of short paths, for sockets
	Runtime runtimecmd.Runtime
	Rootfs  []*types.Mount // mounted at <bundle>/rootfs, in order
	Stdio   stdio.Config
	Images  Images // of the checkpoint that it is restored from, if it is
	Hooks   Hooks
}

// Hooks are called as things happen, in order for each process, and must neither wait nor call back.
type Hooks struct {
	Created func(pid int)
	OOM     func() // the kernel killed a process of the container because memory was short
	Started func(execID string, pid int)
	Exited  func(execID string, pid int, exit reaper.Exit) // before Wait answers
}

// Container is one container and its processes.
type Container struct {
	Config
	Init *Process

	reaper  *reaper.Reaper
	count   atomic.Int64 // numbers scratch files
	buffers stdio.Buffers

	mu    sync.Mutex
	group cgroup.Cgroup // none before there are processes
	kills uint64        // OOM kills that were announced
	execs map[string]*Process
}

// Create mounts the root file system and has the runtime create the container. One that is restored is there only when
// it starts.
func Create(ctx context.Context, reap *reaper.Reaper, config Config) (_ *Container, err error) {
	c := &Container{Config: config, reaper: reap, execs: map[string]*Process{}}
	var undo cleanup.Stack
	defer func() { err = undo.Run(ctx, err) }()
	if err := SaveRuntime(c.Bundle, c.Runtime); err != nil {
		return nil, err
	}
	rootfs := filepath.Join(c.Bundle, "rootfs")
	undo.Add(func(context.Context) error { return Unmount(rootfs) })
	if err := Mount(config.Rootfs, rootfs); err != nil {
		return nil, err
	}
	c.Init = c.process("", config.Stdio)
	if c.Init.io, err = stdio.Open(c.Init.Stdio); err != nil {
		return nil, err
	}
	undo.Add(func(context.Context) error { return c.Init.io.Close() })
	c.Init.mu.Lock()
	defer c.Init.mu.Unlock()
	if c.Images.Path != "" {
		if err := c.Images.prepare(); err != nil {
			return nil, err
		}
		c.Hooks.Created(0)
		return c, nil
	}
	var flags []string
	if c.Runtime.NoNewKeyring {
		flags = append(flags, "--no-new-keyring")
	}
	if err := c.bring(ctx, "create", flags...); err != nil {
		return nil, err
	}
	c.Hooks.Created(c.Init.child.Pid)
	go c.Init.watch()
	return c, nil
}

// bring has the runtime make the container's init process. The process's mu is held.
func (c *Container) bring(ctx context.Context, verb string, flags ...string) error {
	args := append([]string{verb, "--bundle", c.Bundle}, flags...)
	if c.Runtime.NoPivotRoot {
		args = append(args, "--no-pivot")
	}
	if err := c.Init.launch(ctx, append(args, c.ID)); err != nil {
		if c.Init.child != nil {
			err = errors.Join(err, c.runtime(context.WithoutCancel(ctx), "delete", "--force", c.ID))
		}
		return err
	}
	pid := []byte(strconv.Itoa(c.Init.child.Pid))
	if err := os.WriteFile(filepath.Join(c.Bundle, "init.pid"), pid, 0o600); err != nil {
		return errors.Join(err, c.runtime(context.WithoutCancel(ctx), "delete", "--force", c.ID))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// A process that is gone already was in a cgroup that nobody will ask about.
	c.group, _ = cgroup.Of(c.Init.child.Pid)
	return nil
}

// Cgroup returns the container's cgroup.
func (c *Container) Cgroup() cgroup.Cgroup {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.group
}

func (c *Container) process(execID string, config stdio.Config) *Process {
	config.Buffers = &c.buffers
	return &Process{ExecID: execID, Stdio: config, container: c, exited: make(chan struct{})}
}

// scratch returns the path of a file that lives as long as one call.
func (c *Container) scratch(kind string) string {
	return c.Scratch + "." + strconv.FormatInt(c.count.Add(1), 10) + "." + kind
}

func (c *Container) call(args []string) runtimecmd.Call {
	return runtimecmd.Call{Args: args, LogFile: c.scratch("log")}
}

// runtime runs one of the runtime's commands that leave nothing behind.
func (c *Container) runtime(ctx context.Context, args ...string) error {
	return c.Runtime.Run(ctx, c.reaper, c.call(args))
}

// announceExit writes down how the init process ended, and tells the service.
func (c *Container) announceExit(p *Process) {
	killed := c.checkOOM()
	if p.ExecID == "" {
		// Without the file a shim that is killed now would take the status with it: no reason to stop here.
		_ = writeExit(c.Bundle, ExitRecord{
			Pid: p.pid(), ExitStatus: p.exit.Status, ExitedAt: p.exit.At, OOMKilled: killed,
		})
	}
	c.Hooks.Exited(p.ExecID, p.pid(), p.exit)
}

// checkOOM reports whether the kernel has killed a process of the container for want of memory, and announces it if
// that is new. It looks when a process has exited: an event descriptor would cost every container memory.
func (c *Container) checkOOM() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	kills := c.group.OOMKills()
	if kills > c.kills {
		c.kills = kills
		c.Hooks.OOM()
	}
	return c.kills > 0
}

// Find returns the init process for "", otherwise the exec with that id.
func (c *Container) Find(execID string) (*Process, error) {
	if execID == "" {
		return c.Init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.execs[execID]
	if !ok {
		return nil, errdefs.As(errdefs.ErrNotFound, fmt.Errorf("process %q of container %q does not exist", execID, c.ID))
	}
	return p, nil
}

// Exec prepares another process, to be started with Start. spec is its process.json.
func (c *Container) Exec(execID string, spec []byte, config stdio.Config) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[execID]; ok {
		return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("process %q of container %q exists already", execID, c.ID))
	}
	var process struct {
		User struct{ UID, GID int }
	}
	if err := json.Unmarshal(spec, &process); err != nil {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot use the specification of process %q: %w", execID, err))
	}
	config.UID, config.GID = process.User.UID, process.User.GID
	p := c.process(execID, config)
	p.spec = spec
	var err error
	if p.io, err = stdio.Open(p.Stdio); err != nil {
		return err
	}
	c.execs[execID] = p
	return nil
}

// Start starts the container, or a process that Exec prepared.
func (c *Container) Start(ctx context.Context, p *Process) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.require("start", Created); err != nil {
		return err
	}
	if p.ExecID == "" {
		return c.startInit(ctx)
	}
	specFile := c.scratch("json")
	if err := os.WriteFile(specFile, p.spec, 0o600); err != nil {
		return fmt.Errorf("cannot hand process %q to the runtime: %w", p.ExecID, err)
	}
	defer func() { _ = os.Remove(specFile) }()
	args := []string{"exec", "--process", specFile, "--detach"}
	if p.Stdio.Terminal {
		args = append(args, "--tty")
	}
	if err := p.launch(ctx, append(args, c.ID)); err != nil {
		p.state = Stopped // it can only be deleted
		if p.child == nil {
			p.exit.Status = 255
			close(p.exited)
			return err
		}
		go p.watch()
		return err
	}
	p.spec = nil
	p.state = Running
	c.Hooks.Started(p.ExecID, p.pid())
	go p.watch()
	return nil
}

func (c *Container) startInit(ctx context.Context) error {
	p := c.Init
	if p.child != nil {
		if err := c.runtime(ctx, "start", c.ID); err != nil {
			return err
		}
	} else {
		if err := c.restore(ctx); err != nil {
			return err
		}
		defer func() { go p.watch() }() // what it announces comes later
	}
	p.state = Running
	c.Hooks.Started("", p.pid())
	return nil
}

// Kill sends a signal to a process; all sends it to every process of the container.
func (c *Container) Kill(ctx context.Context, p *Process, sig unix.Signal, all bool) error {
	if p.ExecID != "" || sig != unix.SIGKILL && !all {
		return p.Signal(sig)
	}
	p.mu.Lock()
	frozen := p.state == Paused && sig == unix.SIGKILL
	err := p.require("kill", Created, Running, Paused)
	if err == nil && p.child == nil && p.ExecID == "" && sig == unix.SIGKILL {
		p.abandon()
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	if err != nil && !all {
		return err
	}
	// The runtime knows how to kill containers that share a pid namespace.
	args := []string{"kill"}
	if all {
		args = append(args, "--all")
	}
	err = c.runtime(ctx, append(args, c.ID, strconv.Itoa(int(sig)))...)
	if err == nil && frozen {
		// With cgroup v1 a frozen process dies only when it is thawed. runc does that; then this fails.
		_ = c.runtime(ctx, "resume", c.ID)
	}
	return err
}

// Pause stops every process of the container from running.
func (c *Container) Pause(ctx context.Context) error { return c.freeze(ctx, "pause", Running, Paused) }

// Resume undoes Pause.
func (c *Container) Resume(ctx context.Context) error {
	return c.freeze(ctx, "resume", Paused, Running)
}

func (c *Container) freeze(ctx context.Context, verb string, from, to State) error {
	c.Init.mu.Lock()
	defer c.Init.mu.Unlock()
	if err := c.Init.require(verb, from); err != nil {
		return err
	}
	if err := c.runtime(ctx, verb, c.ID); err != nil {
		return err
	}
	c.Init.state = to
	return nil
}

// Update changes the container's limits to those of a file in the OCI specification's format.
func (c *Container) Update(ctx context.Context, resources []byte) error {
	file := c.scratch("json")
	if err := os.WriteFile(file, resources, 0o600); err != nil {
		return fmt.Errorf("cannot hand the new limits to the runtime: %w", err)
	}
	defer func() { _ = os.Remove(file) }()
	return c.runtime(ctx, "update", "--resources", file, c.ID)
}

// Delete removes a process that has exited, or one that was never started. Deleting the init process removes the
// container and its mounts; exit.json stays, as long as the bundle.
func (c *Container) Delete(ctx context.Context, p *Process) error {
	if p.ExecID == "" {
		return c.deleteInit(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child != nil || p.state != Created {
		if err := p.require("delete", Stopped); err != nil {
			return err
		}
	}
	p.state = Deleted
	c.mu.Lock()
	delete(c.execs, p.ExecID)
	c.mu.Unlock()
	return p.io.Close()
}

// deletion bounds the wait for the end of a container that is deleted without ever having been started.
const deletion = 30 * time.Second

func (c *Container) deleteInit(ctx context.Context) error {
	p := c.Init
	state, _, _ := p.State()
	if state != Created && state != Stopped {
		return p.require("delete", Created, Stopped)
	}
	if p.child == nil && state == Created {
		p.mu.Lock()
		p.abandon()
		p.mu.Unlock()
	}
	err := c.runtime(ctx, "delete", "--force", c.ID)
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return err
	}
	waitCtx, cancel := context.WithTimeout(ctx, deletion)
	defer cancel()
	if _, err := p.Wait(waitCtx); err != nil {
		return fmt.Errorf("cannot wait for the end of %s: %w", p.name(), err)
	}
	if err := Unmount(filepath.Join(c.Bundle, "rootfs")); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == Deleted {
		return nil
	}
	p.state = Deleted
	return p.io.Close()
}
