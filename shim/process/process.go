// Package process holds the container of a shim and its processes: the init process and those that were executed in
// the container later.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/shim/reaper"
	"github.com/berthd/berth/shim/stdio"
)

// Process is one process of the container.
type Process struct {
	ExecID string // "" is the init process
	Stdio  stdio.Config

	container *Container
	io        *stdio.Process
	spec      []byte // process.json of an exec
	exited    chan struct{}

	// op is held by operations that have the runtime change the process. mu is not held meanwhile: a runtime that does not
	// answer must not keep others from asking for the state, or from killing.
	op operation

	mu    sync.Mutex
	state State
	child *reaper.Child // nil before the process exists
	exit  reaper.Exit   // valid when exited is closed
}

// operation is a lock that may be given up waiting for. It holds a value while it is locked.
type operation chan struct{}

func newOperation() operation { return make(operation, 1) }

func (o operation) lock() { o <- struct{}{} }

func (o operation) unlock() { <-o }

// lockWithin locks if that is possible within the time, which may be 0.
func (o operation) lockWithin(limit time.Duration) bool {
	select {
	case o <- struct{}{}:
		return true
	default:
	}
	if limit == 0 {
		return false
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case o <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

func (p *Process) name() string {
	if p.ExecID == "" {
		return fmt.Sprintf("container %q", p.container.ID)
	}
	return fmt.Sprintf("process %q of container %q", p.ExecID, p.container.ID)
}

// State returns the state, the pid (0 before there is one) and, once stopped, the exit.
func (p *Process) State() (State, int, reaper.Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state, p.pid(), p.exit
}

func (p *Process) pid() int {
	if p.child == nil {
		return 0
	}
	return p.child.Pid
}

// Wait returns when the process has exited and its output has been delivered.
func (p *Process) Wait(ctx context.Context) (reaper.Exit, error) {
	select {
	case <-p.exited:
		return p.exit, nil
	case <-ctx.Done():
		return reaper.Exit{}, ctx.Err()
	}
}

// launch runs the runtime's create, exec or restore and adopts the process that it leaves behind. args lack the options
// that every launch has. p.op is held.
func (p *Process) launch(ctx context.Context, args []string) error {
	c := p.container
	var console *stdio.ConsoleSocket
	if p.Stdio.Terminal {
		var err error
		if console, err = stdio.ListenConsole(c.scratch("tty")); err != nil {
			return err
		}
		defer console.Close()
		args = append([]string{args[0], "--console-socket", console.Path()}, args[1:]...)
	}
	call := c.call(args)
	call.Files = p.io.Files()
	call.PidFile = c.scratch("pid")
	child, err := c.Runtime.Start(ctx, c.reaper, call)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.child = child
	p.mu.Unlock()
	var master *os.File
	if console != nil {
		if master, err = console.Receive(); err != nil {
			return errors.Join(err, child.Signal(unix.SIGKILL))
		}
	}
	if err := p.io.Begin(master); err != nil {
		return errors.Join(err, child.Signal(unix.SIGKILL))
	}
	return nil
}

// startGrace bounds how long the announcement of an exit waits for the operation that is under way, so that a start is
// announced before its end.
const startGrace = 5 * time.Second

// watch waits for the end of the process and announces it. The status is written down before clients get the last of
// the output, which takes as long as they read: a shim that is killed meanwhile leaves it behind.
func (p *Process) watch() {
	<-p.child.Exited
	exit := p.child.Exit()
	p.container.recordExit(p, exit)
	p.io.Drain()
	if p.op.lockWithin(startGrace) {
		defer p.op.unlock()
	}
	p.mu.Lock()
	p.exit = exit
	p.state = Stopped
	p.mu.Unlock()
	p.container.Hooks.Exited(p.ExecID, p.pid(), exit)
	close(p.exited)
}

// Resize sets the size of the process's terminal.
func (p *Process) Resize(width, height uint16) error { return p.io.Resize(width, height) }

// CloseStdin ends the process's input.
func (p *Process) CloseStdin() error { return p.io.CloseStdin() }

// Signal sends a signal to this process alone.
func (p *Process) Signal(sig unix.Signal) error {
	p.mu.Lock()
	child, err := p.child, p.require("signal", Created, Running, Paused)
	p.mu.Unlock()
	switch {
	case err != nil:
		return err
	case child == nil:
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot signal %s: it was not started", p.name()))
	}
	err = child.Signal(sig)
	if errors.Is(err, unix.ESRCH) {
		return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("cannot signal %s: it has exited", p.name()))
	}
	if err != nil {
		return fmt.Errorf("cannot send signal %d to %s: %w", sig, p.name(), err)
	}
	return nil
}
