package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/shim/reaper"
)

// Start starts the container, or a process that Exec prepared.
func (c *Container) Start(ctx context.Context, p *Process) error {
	p.op.lock()
	defer p.op.unlock()
	p.mu.Lock()
	err := p.require("start", Created)
	if err == nil && p.ended() {
		err = errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot start %s: it could not be started before", p.name()))
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if p.ExecID == "" {
		return c.startInit(ctx)
	}
	return c.startExec(ctx, p)
}

// startExec starts an exec. One that can't be started stays created, as containerd's shim has it, and can only be deleted;
// who waits for its end learns that there will be none. p.op is held.
func (c *Container) startExec(ctx context.Context, p *Process) error {
	err := c.launchExec(ctx, p)
	p.mu.Lock()
	if err != nil && p.child == nil {
		p.endUnstarted(255)
		p.mu.Unlock()
		return err
	}
	p.spec = nil
	p.state = Running
	p.mu.Unlock()
	if err == nil {
		c.Hooks.Started(p.ExecID, p.pid())
	}
	go p.watch()
	return err
}

func (c *Container) launchExec(ctx context.Context, p *Process) error {
	specFile := c.scratch("json")
	if err := os.WriteFile(specFile, p.spec, 0o600); err != nil {
		return fmt.Errorf("cannot hand process %q to the runtime: %w", p.ExecID, err)
	}
	defer func() { _ = os.Remove(specFile) }()
	args := []string{"exec", "--process", specFile, "--detach"}
	if p.Stdio.Terminal {
		args = append(args, "--tty")
	}
	return p.launch(ctx, append(args, c.ID))
}

// startInit starts the container. p.op is held.
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
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == Created { // a runtime that took long may have outlasted the container
		p.state = Running
		c.Hooks.Started("", p.pid())
	}
	return nil
}

// endUnstarted answers those who wait for the end of a process that was never there. p.mu is held.
func (p *Process) endUnstarted(status int) {
	if !p.ended() {
		p.exit = reaper.Exit{Status: status, At: time.Now()}
		close(p.exited)
	}
}

func (p *Process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Kill sends a signal to a process; all sends it to every process of the container.
func (c *Container) Kill(ctx context.Context, p *Process, sig unix.Signal, all bool) error {
	if p.ExecID != "" || sig != unix.SIGKILL && !all {
		return p.Signal(sig)
	}
	p.mu.Lock()
	err := p.require("kill", Created, Running, Paused)
	unborn := err == nil && p.child == nil
	p.mu.Unlock()
	if unborn && sig == unix.SIGKILL {
		return c.killUnborn(p)
	}
	if err != nil && !all {
		return err
	}
	// The runtime knows how to kill containers that share a pid namespace.
	args := []string{"kill"}
	if all {
		args = append(args, "--all")
	}
	err = c.runtime(ctx, append(args, c.ID, strconv.Itoa(int(sig)))...)
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) && sig == unix.SIGKILL {
		// A container can be killed without its runtime.
		return c.killDirectly(err)
	}
	if err == nil && sig == unix.SIGKILL && c.Cgroup().Frozen() {
		// With cgroup v1 a frozen process dies only when it is thawed. runc does that; then this fails.
		_ = c.runtime(ctx, "resume", c.ID)
	}
	return err
}

// killUnborn ends a container that was not restored yet.
func (c *Container) killUnborn(p *Process) error {
	if !p.op.lockWithin(startGrace) {
		return errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("cannot kill %s: it is being restored", p.name()))
	}
	defer p.op.unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		p.abandon()
		return nil
	}
	return p.child.Signal(unix.SIGKILL)
}

// killDirectly kills the container's processes without the runtime, which has failed with that error.
func (c *Container) killDirectly(failed error) error {
	c.Init.mu.Lock()
	child := c.Init.child
	c.Init.mu.Unlock()
	if child == nil {
		return failed
	}
	if err := child.Signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return errors.Join(failed, fmt.Errorf("cannot kill %s: %w", c.Init.name(), err))
	}
	_ = c.Cgroup().Kill() // it may be gone, or not the container's own
	return nil
}

// State returns the state, pid and exit of one of the processes. Whether the container is paused is the kernel's to say:
// others may have frozen or thawed it, and a runtime that was killed may have done it without a word.
func (c *Container) State(p *Process) (State, int, reaper.Exit) {
	if p.ExecID == "" && p.op.lockWithin(0) { // a runtime at work may freeze the container for a moment
		c.askFreezer()
		p.op.unlock()
	}
	return p.State()
}

// askFreezer corrects the state of the init process. Its op is held.
func (c *Container) askFreezer() {
	group := c.Cgroup()
	p := c.Init
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.state != Running && p.state != Paused:
	case group.Frozen():
		p.state = Paused
	default:
		p.state = Running
	}
}

// Pause stops every process of the container from running.
func (c *Container) Pause(ctx context.Context) error { return c.freeze(ctx, "pause", Running, Paused) }

// Resume undoes Pause.
func (c *Container) Resume(ctx context.Context) error {
	return c.freeze(ctx, "resume", Paused, Running)
}

func (c *Container) freeze(ctx context.Context, verb string, from, to State) error {
	p := c.Init
	p.op.lock()
	defer p.op.unlock()
	c.askFreezer()
	p.mu.Lock()
	err := p.require(verb, from)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if err := c.runtime(ctx, verb, c.ID); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == from {
		p.state = to
	}
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
	p.op.lock()
	defer p.op.unlock()
	p.mu.Lock()
	var err error
	if p.child != nil || p.state != Created {
		err = p.require("delete", Stopped)
	}
	if err == nil {
		p.endUnstarted(128 + int(unix.SIGKILL))
		p.state = Deleted
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.execs, p.ExecID)
	c.mu.Unlock()
	return p.io.Close()
}

// deletion bounds the wait for the end of a container that is deleted without ever having been started.
const deletion = 30 * time.Second

func (c *Container) deleteInit(ctx context.Context) error {
	p := c.Init
	state, pid, _ := p.State()
	if state != Created && state != Stopped {
		return p.require("delete", Created, Stopped)
	}
	if pid == 0 && state == Created {
		if err := c.killUnborn(p); err != nil {
			return err
		}
	}
	err := c.runtime(ctx, "delete", "--force", c.ID)
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		_ = c.killDirectly(err) // what the runtime can't remove must not run on
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
	again := p.state == Deleted
	p.state = Deleted
	p.mu.Unlock()
	if again {
		return nil
	}
	c.mu.Lock()
	c.watch.Close()
	c.mu.Unlock()
	return p.io.Close()
}
