package containers

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/bundle"
	"github.com/berthd/berth/manager/shims"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// execution is a process that Exec added to a run. Its fields below done are set when that is closed.
type execution struct {
	id      string
	process *berthv1.ProcessSpec
	pid     uint32
	done    chan struct{}
	code    int32
	ended   time.Time // guarded by the container's mu
}

// keptExecs is how many executions of a run can be asked about after their end. A container may run for years, with an exec every second.
const keptExecs = 256

// endExec notes the end of an execution, and forgets the one that ended first if there are too many.
func (c *container) endExec(e *execution) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.message.ExecIds = slices.DeleteFunc(slices.Clone(c.message.GetExecIds()), func(id string) bool { return id == e.id })
	e.ended = time.Now()
	var first *execution
	count := 0
	for _, other := range c.execs {
		if other.ended.IsZero() {
			continue
		}
		if count++; first == nil || other.ended.Before(first.ended) {
			first = other
		}
	}
	if count > keptExecs {
		delete(c.execs, first.id)
	}
}

// Exec runs another process in a container and answers when it runs. The caller closes the session, which leaves the
// process be. With detach nobody is connected to its streams.
func (s *Service) Exec(ctx context.Context, start *berthv1.ExecStart) (*Session, error) {
	c, err := s.find(start.GetContainer())
	if err != nil {
		return nil, err
	}
	current, err := c.running("execute a command in")
	if err != nil {
		return nil, err
	}
	if c.status() == statusPaused {
		c.mu.Lock()
		defer c.mu.Unlock()
		return nil, c.refuse("execute a command in")
	}
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	e := &execution{id: hex.EncodeToString(random[:]), process: start.GetProcess(), done: make(chan struct{})}
	process, err := s.execProcess(c, current, e.process)
	if err != nil {
		return nil, err
	}
	session, err := s.runExec(context.WithoutCancel(ctx), c, current, e, execPlan{process: process, detach: start.GetDetach()})
	if err != nil {
		return nil, fmt.Errorf("cannot execute a command in container %q: %w", c.snapshot().GetName(), err)
	}
	return session, nil
}

type execPlan struct {
	process *specs.Process
	detach  bool
}

// execProcess is what is asked for with the container's process as the default.
func (s *Service) execProcess(c *container, current *run, asked *berthv1.ProcessSpec) (*specs.Process, error) {
	if len(asked.GetArgs()) == 0 {
		return nil, invalid("no command: process.args is empty")
	}
	message := c.snapshot()
	own := message.GetProcess()
	base := current.env
	if !bundle.Sets(own.GetEnv(), "HOME") {
		base = bundle.ExecEnvironment(base, []string{"HOME"}, false) // the default is of the container's user, not of this one's
	}
	merged := &berthv1.ProcessSpec{
		Args: asked.GetArgs(), WorkingDir: asked.GetWorkingDir(), User: asked.GetUser(), AdditionalGroups: slices.Concat(own.GetAdditionalGroups(), asked.GetAdditionalGroups()),
		Env: bundle.ExecEnvironment(base, asked.GetEnv(), asked.GetTty()), Tty: asked.GetTty(), Privileged: asked.GetPrivileged(),
	}
	if merged.GetWorkingDir() == "" {
		merged.WorkingDir = own.GetWorkingDir()
	}
	if merged.GetUser() == "" {
		merged.User = own.GetUser()
	}
	process, err := bundle.Process(filepath.Join(c.bundle, bundle.RootfsDir), merged, message.GetSpec().GetSecurity())
	if err != nil {
		return nil, err
	}
	if asked.GetPrivileged() && message.GetState().GetApparmorProfile() != "" {
		process.ApparmorProfile = "unconfined" // empty would stand for the container's
	}
	if process.Rlimits, err = bundle.Rlimits(message.GetSpec().GetResources()); err != nil {
		return nil, err
	}
	if size := asked.GetTtySize(); size != nil && process.Terminal {
		process.ConsoleSize = &specs.Box{Width: uint(size.GetWidth()), Height: uint(size.GetHeight())}
	}
	return process, nil
}

func (s *Service) runExec(ctx context.Context, c *container, current *run, e *execution, plan execPlan) (_ *Session, err error) {
	uri := s.streams(c.id, e.id, nil)
	uri.StdinOnce = e.process.GetStdinOnce()
	io := shims.IO{Terminal: plan.process.Terminal}
	if !plan.detach {
		io = uri.IO(e.process.GetStdin(), plan.process.Terminal)
	}
	s.publish(c, "exec_create: "+strings.Join(plan.process.Args, " "), "execID", e.id)
	if err := current.task().AddProcess(ctx, e.id, plan.process, io); err != nil {
		return nil, err
	}
	session := &Session{TTY: plan.process.Terminal, StdinOnce: e.process.GetStdinOnce(), ExecID: e.id, run: current, exit: e.exit}
	defer func() {
		if err != nil {
			session.Close()
			_, deleteErr := current.task().Delete(ctx, e.id)
			err = errors.Join(err, ignoreNotFound(deleteErr))
		}
	}()
	if !plan.detach {
		if session.stream, err = shims.OpenStream(uri.Path); err != nil {
			return nil, err
		}
	}
	if e.pid, err = current.task().Start(ctx, e.id); err != nil {
		return nil, err
	}
	session.Pid = e.pid
	c.mu.Lock()
	c.execs[e.id] = e
	c.message.ExecIds = append(slices.Clone(c.message.GetExecIds()), e.id)
	c.mu.Unlock()
	s.publish(c, "exec_start: "+strings.Join(plan.process.Args, " "), "execID", e.id)
	s.background("the watch of an exec", func() { s.watchExec(c, current, e) })
	return session, nil
}

// watchExec waits for the end of the process, keeps its exit code, and has the shim forget it.
func (s *Service) watchExec(c *container, current *run, e *execution) {
	exited, err := s.waitProcess(c, current, e.id)
	if s.work.Err() != nil {
		return
	}
	if err != nil { // the shim is gone, and with it all that runs in the container
		exited.Code = lostCode
	}
	e.code = exited.Code
	c.endExec(e)
	close(e.done)
	s.publish(c, "exec_die", "execID", e.id, "exitCode", strconv.Itoa(int(e.code)))
	if _, err := current.task().Delete(s.work, e.id); ignoreNotFound(err) != nil && !errors.Is(err, errdefs.ErrUnavailable) && s.work.Err() == nil {
		s.cfg.Logger.Warn("cannot have the shim forget a process", "container", c.id, "exec", e.id, "error", err)
	}
}

func (e *execution) exit(ctx context.Context) (int32, error) {
	select {
	case <-e.done:
		return e.code, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (c *container) execution(id string) (*execution, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.execs[id]
	if e == nil {
		return nil, errdefs.As(errdefs.ErrNotFound, fmt.Errorf("no such exec %q in container %q", id, c.message.GetName()))
	}
	return e, nil
}

// InspectExec tells about a process that Exec added.
func (s *Service) InspectExec(ref, execID string) (*berthv1.InspectExecResponse, error) {
	c, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	e, err := c.execution(execID)
	if err != nil {
		return nil, err
	}
	response := &berthv1.InspectExecResponse{ExecId: e.id, ContainerId: c.id, Process: e.process, Pid: e.pid, Running: true}
	select {
	case <-e.done:
		response.Running, response.ExitCode, response.Pid = false, e.code, 0
	default:
	}
	return response, nil
}
