package containers

import (
	"context"
	"errors"
	"fmt"
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

// begin makes a run current, tells of it, and watches it.
func (s *Service) begin(c *container, current *run, action string, change func(*berthv1.Container)) {
	c.connectAttachments(current)
	s.record(c, stepNone, change)
	if action != "" {
		s.cfg.Volumes.TellMounted(c.id, c.snapshot().GetMounts())
		s.publish(c, action) // before what the watch has to tell
	}
	s.background("the watch of a container", func() { s.watch(c, current) })
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

// lostCode is the exit code reported when the container's real exit code is unknown. Docker uses the same value.
const lostCode = 255

// awaitExit waits for the process to end. A shim that went away is asked for what it left on disk.
func (s *Service) awaitExit(c *container, current *run) (shims.Exited, error) {
	exited, err := s.waitProcess(c, current, "")
	if err == nil || s.work.Err() != nil {
		return exited, nil
	}
	exited, deleteErr := s.deleteShim(s.work, c.id)
	if deleteErr != nil {
		return exited, errors.Join(err, deleteErr)
	}
	return exited, nil
}

// maxReconnects is how often a broken connection to a shim is made anew before the shim is given up.
const maxReconnects = 10

// waitProcess waits for the end of a run's own process or of an exec. It fails when the shim is gone.
func (s *Service) waitProcess(c *container, current *run, execID string) (shims.Exited, error) {
	for pause, attempt := time.Millisecond, 0; ; pause, attempt = 2*pause, attempt+1 {
		task := current.task()
		exited, err := task.Wait(s.work, execID)
		if err == nil || s.work.Err() != nil {
			return exited, nil
		}
		if !errors.Is(err, errdefs.ErrUnavailable) || attempt == maxReconnects {
			return exited, err
		}
		select {
		case <-time.After(pause):
		case <-s.work.Done():
			return exited, nil
		}
		if connectErr := current.reconnect(task, func() (*shims.Task, error) { return s.cfg.Shims.Connect(c.id, c.bundle) }); connectErr != nil {
			return exited, err
		}
	}
}

// finish takes away what surrounded a process that has exited, announces its end, and does what comes after it.
func (s *Service) finish(c *container, current *run) {
	if err := s.cleanUpRun(context.WithoutCancel(s.work), c, current); err != nil {
		s.cfg.Logger.Error("cannot clean up behind a container; it is tried again", "container", c.id, "error", err)
		s.cleanLater(c.id)
	}
	after, delay := s.whatNext(c)
	next := stepNone
	if after == statusRestarting {
		next = stepRestarts
	}
	removesItself := after == statusExited && s.removesItself(c)
	settle := func(m *berthv1.Container) { // all at once: a container without a process that counts as running would not be started
		c.current, c.execs = nil, map[string]*execution{}
		c.history.exits++
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
	s.cfg.Volumes.TellUnmounted(c.id, c.snapshot().GetMounts())
	current.code = state.GetExitCode()
	close(current.done)
	switch {
	case after == statusRestarting:
		s.restartLater(c, delay)
	case removesItself:
		s.removeLater(c)
	}
}

// cleanUpRun takes away what surrounded a process. If the shim can't, the bundle stays: another attempt needs it.
func (s *Service) cleanUpRun(ctx context.Context, c *container, current *run) error {
	released := false
	err := together(
		func() error {
			c.awaitExecs(ctx)
			err := s.releaseShim(ctx, c, current)
			released = err == nil
			return err
		},
		func() error { return s.disconnect(ctx, c) },
	)
	if !released {
		return err
	}
	s.removeStreams(c.id)
	return errors.Join(err, s.removeBundle(c))
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
		err = current.task().Shutdown(ctx)
	}
	if err == nil {
		return nil
	}
	_ = current.task().Close()
	_, err = s.deleteShim(ctx, c.id)
	return err
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
	if c.history.stopped || !wantsRestart(c.message.GetSpec().GetRestart(), state) {
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
	s.background("the restart of a container", func() {
		ctx, cancel := context.WithTimeout(s.work, delay)
		defer cancel()
		err := c.await(ctx, func() bool { return c.message.GetState().GetStatus() != statusRestarting || c.history.removed })
		if err == nil || s.work.Err() != nil {
			return
		}
		s.restartNow(s.work, c)
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
	if _, err := s.startHeld(context.WithoutCancel(ctx), c, byPolicy, nil); err != nil {
		s.cfg.Logger.Error("cannot restart a container", "container", c.id, "error", err)
		s.retryRestart(c)
	}
}

// retryRestart lets the policy decide whether a container whose restart failed is tried once more.
func (s *Service) retryRestart(c *container) {
	c.mu.Lock()
	state := proto.CloneOf(c.message.GetState())
	again := !c.history.stopped && wantsRestart(c.message.GetSpec().GetRestart(), state)
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

// Wait blocks until the condition holds, and answers the exit code and why the container did not start, if it did not. A
// removal that fails ends the wait for it.
func (s *Service) Wait(ctx context.Context, ref string, condition berthv1.WaitCondition) (int32, string, error) {
	c, err := s.find(ref)
	if err != nil {
		return 0, "", err
	}
	c.mu.Lock()
	exits := c.history.exits
	c.mu.Unlock()
	var failed bool
	err = c.await(ctx, func() bool {
		state := c.message.GetState().GetStatus()
		switch {
		case c.history.removed:
			return true
		case condition == berthv1.WaitCondition_WAIT_CONDITION_REMOVED:
			failed = state == statusDead
			return failed
		case condition == berthv1.WaitCondition_WAIT_CONDITION_NEXT_EXIT:
			return c.history.exits > exits
		}
		return c.current == nil && c.step != stepStart && state != statusRestarting
	})
	if err != nil {
		return 0, "", err
	}
	message := c.snapshot()
	if failed {
		return 0, "", errdefs.As(errdefs.ErrFailedPrecondition,
			fmt.Errorf("container %q can't be removed: %s", message.GetName(), message.GetState().GetError()))
	}
	return message.GetState().GetExitCode(), message.GetState().GetError(), nil
}
