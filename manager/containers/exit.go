package containers

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/shims"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// begin makes a run current and watches it.
func (s *Service) begin(c *container, current *run, change func(*berthv1.Container)) {
	c.connectAttachments(current)
	s.record(c, stepNone, change)
	s.owned.Go(func() { s.watch(c, current) })
}

// watch waits for the end of a run and deals with it, unless the daemon ends before.
func (s *Service) watch(c *container, current *run) {
	exited, err := s.awaitExit(c, current)
	if s.work.Err() != nil {
		_ = current.task().Close()
		return
	}
	if err != nil {
		s.cfg.Logger.Error("lost the shim of a container", "container", c.id, "error", err)
	}
	starved := shims.OOMKilled(c.bundle)
	if starved {
		s.publish(c, "oom")
	}
	// From here on the shim is not asked again how the process ended.
	s.record(c, stepCleanUp, func(m *berthv1.Container) {
		m.State.ExitCode, m.State.FinishedAt, m.State.OomKilled = exited.Code, timestamppb.New(exited.At), starved
		if err != nil {
			m.State.Error = "its shim is gone: " + err.Error()
		}
	})
	s.finish(c, current)
}

// lostCode is the exit code of a container whose own nobody knows, as docker's.
const lostCode = 255

// awaitExit waits for the process to end. A shim that went away is asked for what it left on disk.
func (s *Service) awaitExit(c *container, current *run) (shims.Exited, error) {
	for {
		exited, err := current.task().Wait(s.work, "")
		if err == nil || s.work.Err() != nil {
			return exited, nil
		}
		again, connectErr := s.cfg.Shims.Connect(c.id, c.bundle)
		if connectErr == nil && errors.Is(err, errdefs.ErrUnavailable) {
			_ = current.task().Close()
			current.link.Store(again)
			continue
		}
		exited, deleteErr := s.cfg.Shims.Delete(s.work, c.id, c.bundle)
		if deleteErr != nil {
			return shims.Exited{Code: lostCode, At: time.Now()}, errors.Join(err, deleteErr)
		}
		return exited, nil
	}
}

// finish takes away what surrounded a process that has exited, announces its end, and does what comes after it.
func (s *Service) finish(c *container, current *run) {
	ctx := context.WithoutCancel(s.work)
	err := together(
		func() error {
			c.awaitExecs(ctx)
			return s.releaseShim(ctx, c, current)
		},
		func() error { return s.disconnect(ctx, c) },
	)
	err = errors.Join(err, s.removeBundle(c))
	if err != nil {
		s.cfg.Logger.Error("cannot clean up behind a container; it is tried again when the container is removed", "container", c.id, "error", err)
	}
	after, delay := s.whatNext(c)
	next := stepNone
	if after == statusRestarting {
		next = stepRestarts
	}
	c.mu.Lock()
	c.current, c.execs = nil, map[string]*execution{}
	c.history.exits++
	c.mu.Unlock()
	removesItself := after == statusExited && s.removesItself(c)
	settle := func(m *berthv1.Container) {
		m.State.Status, m.State.Pid, m.Endpoints, m.Ports, m.ExecIds = after, 0, nil, nil, nil
		if after == statusRestarting {
			m.State.RestartCount++
		}
	}
	if removesItself {
		c.settleInMemory(settle) // on disk it stays one to clean up behind until it is gone
	} else {
		s.record(c, next, settle)
	}
	state := c.snapshot().GetState()
	s.publish(c, "die", "exitCode", strconv.Itoa(int(state.GetExitCode())),
		"execDuration", strconv.Itoa(int(state.GetFinishedAt().AsTime().Sub(state.GetStartedAt().AsTime()).Seconds())))
	current.code = state.GetExitCode()
	close(current.done)
	switch {
	case after == statusRestarting:
		s.restartLater(c, delay)
	case removesItself:
		s.removeLater(c)
	}
}

func (c *container) settleInMemory(change func(*berthv1.Container)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c.message)
	c.announce()
}

// execPatience is how long what was executed in a container may take to end with it. Only what shares its process
// namespace with others does not end at once: that is killed with the container's cgroup.
const execPatience = 500 * time.Millisecond

// awaitExecs waits for the exit codes of what was executed in a container, which its shim knows.
func (c *container) awaitExecs(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, execPatience)
	defer cancel()
	c.mu.Lock()
	list := slices.Collect(maps.Values(c.execs))
	c.mu.Unlock()
	for _, e := range list {
		_, _ = e.exit(ctx)
	}
}

// releaseShim has the shim delete the container and end.
func (s *Service) releaseShim(ctx context.Context, c *container, current *run) error {
	_, err := current.task().Delete(ctx, "")
	if err = ignoreNotFound(err); err == nil {
		return current.task().Shutdown(ctx)
	}
	_ = current.task().Close()
	_, deleteErr := s.cfg.Shims.Delete(ctx, c.id, c.bundle)
	return deleteErr
}

func (s *Service) removesItself(c *container) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.message.GetSpec().GetAutoRemove() && !c.history.noRemove
}

// The pauses before restarts. A run that lasted a while starts them anew.
const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = time.Minute
	stableRun    = 10 * time.Second
)

// whatNext asks the restart policy what comes after an exit.
func (s *Service) whatNext(c *container) (status, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state := c.message.GetState()
	if c.stopped || !wantsRestart(c.message.GetSpec().GetRestart(), state) {
		c.history.backoff = 0
		return statusExited, 0
	}
	lasted := state.GetFinishedAt().AsTime().Sub(state.GetStartedAt().AsTime())
	c.history.backoff = nextBackoff(c.history.backoff, lasted)
	return statusRestarting, c.history.backoff
}

func nextBackoff(previous, lasted time.Duration) time.Duration {
	if previous == 0 || lasted >= stableRun {
		return firstBackoff
	}
	return min(2*previous, maxBackoff)
}

func wantsRestart(policy *berthv1.RestartPolicy, state *berthv1.ContainerState) bool {
	switch policy.GetCondition() {
	case berthv1.RestartCondition_RESTART_CONDITION_ALWAYS, berthv1.RestartCondition_RESTART_CONDITION_UNLESS_STOPPED:
		return true
	case berthv1.RestartCondition_RESTART_CONDITION_ON_FAILURE:
		return state.GetExitCode() != 0 && (policy.GetMaxRetries() == 0 || state.GetRestartCount() < policy.GetMaxRetries())
	}
	return false
}

// restartLater starts the container again after a pause, unless it is not RESTARTING any more by then.
func (s *Service) restartLater(c *container, delay time.Duration) {
	s.owned.Go(func() {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		ctx, cancel := context.WithCancel(s.work)
		defer cancel()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = c.await(ctx, func() bool { return c.message.GetState().GetStatus() != statusRestarting || c.history.removed })
		}()
		select {
		case <-timer.C:
		case <-ended:
			return
		}
		s.restartNow(ctx, c)
	})
}

func (s *Service) restartNow(ctx context.Context, c *container) {
	_, release, err := s.hold(ctx, c.id)
	if err != nil {
		return
	}
	defer release()
	if c.status() != statusRestarting {
		return
	}
	count := c.snapshot().GetState().GetRestartCount()
	if _, err := s.startHeld(ctx, c, nil); err != nil {
		s.cfg.Logger.Error("cannot restart a container", "container", c.id, "error", err)
		s.retryRestart(c)
		return
	}
	s.record(c, stepNone, func(m *berthv1.Container) { m.State.RestartCount = count })
}

// retryRestart lets the policy decide whether a container whose restart failed is tried once more.
func (s *Service) retryRestart(c *container) {
	c.mu.Lock()
	state := proto.CloneOf(c.message.GetState())
	again := !c.stopped && wantsRestart(c.message.GetSpec().GetRestart(), state)
	c.history.backoff = nextBackoff(c.history.backoff, 0)
	delay := c.history.backoff
	c.mu.Unlock()
	if !again {
		return
	}
	s.record(c, stepRestarts, func(m *berthv1.Container) {
		m.State.Status = statusRestarting
		m.State.RestartCount++
	})
	s.restartLater(c, delay)
}
