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
	watch *cgroup.OOMWatch
	kills uint64 // OOM kills that were announced
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
	c.Init.op.lock()
	defer c.Init.op.unlock()
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

// bring has the runtime make the container's init process. The process's op is held.
func (c *Container) bring(ctx context.Context, verb string, flags ...string) error {
	args := append([]string{verb, "--bundle", c.Bundle}, flags...)
	if c.Runtime.NoPivotRoot {
		args = append(args, "--no-pivot")
	}
	if err := c.Init.launch(ctx, append(args, c.ID)); err != nil {
		// A runtime that fails removes what it has made. One that was killed or has succeeded does not.
		if c.Init.child != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, runtimecmd.ErrUnclaimed) {
			deleteErr := c.runtime(context.WithoutCancel(ctx), "delete", "--force", c.ID)
			if deleteErr != nil && !errors.Is(deleteErr, errdefs.ErrNotFound) {
				err = errors.Join(err, deleteErr)
			}
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
	// Without a watch, kills are announced when a process has ended.
	c.watch, _ = c.group.WatchOOM(func() { c.checkOOM() })
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
	config.Exec = execID != ""
	return &Process{ExecID: execID, Stdio: config, container: c, exited: make(chan struct{}), op: newOperation()}
}

// scratch returns the path of a file that lives as long as one call.
func (c *Container) scratch(kind string) string {
	return c.Scratch + "." + strconv.FormatInt(c.count.Add(1), 10) + "." + kind
}

func (c *Container) call(args []string) runtimecmd.Call {
	return runtimecmd.Call{Args: args, Dir: c.Bundle, LogFile: c.scratch("log")}
}

// runtime runs one of the runtime's commands that leave nothing behind.
func (c *Container) runtime(ctx context.Context, args ...string) error {
	return c.Runtime.Run(ctx, c.reaper, c.call(args))
}

// recordExit writes down how the init process ended, and ends what it leaves behind.
func (c *Container) recordExit(p *Process, exit reaper.Exit) {
	killed := c.checkOOM()
	if p.ExecID != "" {
		return
	}
	// Without the file a shim that is killed now would take the status with it: no reason to stop here.
	_ = writeExit(c.Bundle, ExitRecord{Pid: p.pid(), ExitStatus: exit.Status, ExitedAt: exit.At, OOMKilled: killed})
	c.killSurvivors()
}

// checkOOM reports whether the kernel has killed a process of the container because memory was short, and announces it if
// that is new.
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
		User     struct{ UID, GID int }
		Terminal bool
	}
	err := json.Unmarshal(spec, &process)
	if err == nil && process.Terminal != config.Terminal {
		spec, err = withTerminal(spec, config.Terminal)
	}
	if err != nil {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot use the specification of process %q: %w", execID, err))
	}
	config.UID, config.GID = process.User.UID, process.User.GID
	p := c.process(execID, config)
	p.spec = spec
	if p.io, err = stdio.Open(p.Stdio); err != nil {
		return err
	}
	c.execs[execID] = p
	return nil
}

// withTerminal returns the process.json with another word on the terminal: that of the request counts, as with
// containerd's own shim.
func withTerminal(spec []byte, terminal bool) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(spec, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		fields = map[string]json.RawMessage{}
	}
	fields["terminal"] = json.RawMessage(strconv.FormatBool(terminal))
	return json.Marshal(fields)
}
