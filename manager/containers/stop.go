package containers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/shims"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Stopping is how a container is asked to end.
type Stopping struct {
	// Signal to send first. Empty: the container's own.
	Signal string
	// Timeout before SIGKILL. Negative: never. Nil: the container's own.
	Timeout *time.Duration
}

// Stop ends a container's process, and answers its exit code when it has.
func (s *Service) Stop(ctx context.Context, ref string, how Stopping) (int32, error) {
	c, release, err := s.hold(ctx, ref)
	if err != nil {
		return 0, err
	}
	defer release()
	if err := s.stopHeld(context.WithoutCancel(ctx), c, how); err != nil {
		return 0, err
	}
	return c.snapshot().GetState().GetExitCode(), nil
}

// stopHeld stops a container whose life the caller holds, and lets go of it while the process has time to end by itself. Its
// restart policy does not start it again.
func (s *Service) stopHeld(ctx context.Context, c *container, how Stopping) error {
	signal, timeout, err := c.howToStop(how)
	if err != nil {
		return err
	}
	current, before := s.markStopped(c)
	if before == statusRestarting && current == nil {
		s.record(c, stepNone, func(m *berthv1.Container) { m.State.Status = statusExited })
		return nil
	}
	if current == nil {
		return nil
	}
	ended := false
	if signal != syscall.SIGKILL {
		if ended, err = s.ask(ctx, c, current, signal, timeout); err != nil {
			return fmt.Errorf("cannot stop container %q: %w", c.snapshot().GetName(), err)
		}
	}
	if !ended {
		if err := s.kill(ctx, c, current, false); err != nil {
			return fmt.Errorf("cannot stop container %q: %w", c.snapshot().GetName(), err)
		}
	}
	s.publish(c, "stop")
	return nil
}

// ask sends a signal that a process may handle, and waits for its end. A shim that does not answer can't tell of the end
// either: then the wait is over at once.
func (s *Service) ask(ctx context.Context, c *container, current *run, signal syscall.Signal, timeout time.Duration) (ended bool, err error) {
	err = s.signal(ctx, c, current, signal, false)
	if errors.Is(err, shims.ErrNoAnswer) {
		s.cfg.Logger.Warn("cannot ask a container to stop; it is killed", "container", c.id, "error", err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := s.thawAll(ctx, c, current); err != nil { // a frozen process handles no signal
		s.cfg.Logger.Warn("cannot let a container go on that is to handle a signal", "container", c.id, "error", err)
	}
	return s.endsByItself(ctx, c, current, timeout), nil
}

// endsByItself waits for the end of a process that was asked to end. A client chooses how long that takes, and may choose for
// ever: meanwhile the container's life is not held, so that others can kill or remove the container, or stop it sooner.
func (s *Service) endsByItself(ctx context.Context, c *container, current *run, timeout time.Duration) bool {
	<-c.life
	ended := s.exitsWithin(ctx, current, timeout)
	c.life <- struct{}{}
	if !ended && c.active() != current {
		ended = s.exitsWithin(ctx, current, endPatience) // it ended as the time was up
	}
	return ended
}

// thawAll lets a container go on, whether it was paused or frozen behind berthd's back.
func (s *Service) thawAll(ctx context.Context, c *container, current *run) error {
	var err error
	if c.status() == statusPaused {
		err = s.thaw(ctx, c, current)
	}
	if cgroup := s.cgroupOf(c.id); err != nil || cgroup.Frozen() {
		return cgroup.Thaw()
	}
	return nil
}

const (
	// endPatience is how long the end of a process may take to be known.
	endPatience = 15 * time.Second
	// killPatience is how long the end after SIGKILL may take before more is done about it than asking the shim.
	killPatience = 10 * time.Second
	// forcePatience is how long it may take when each helper has to be waited for until it is given up.
	forcePatience = 2 * time.Minute
)

// kill ends a run for certain, with all processes if the caller wants to, and returns when it has ended: by the shim, and if that
// does not do it, by force.
func (s *Service) kill(ctx context.Context, c *container, current *run, all bool) error {
	err := s.signal(ctx, c, current, syscall.SIGKILL, all)
	if err == nil {
		// A frozen process does not end on cgroup v1.
		if err := s.cgroupOf(c.id).Thaw(); err != nil {
			s.cfg.Logger.Warn("cannot thaw a container that was killed", "container", c.id, "error", err)
		}
		if s.exitsWithin(ctx, current, killPatience) {
			return nil
		}
	}
	s.cfg.Logger.Warn("a container does not end by its shim; it is ended by force", "container", c.id, "error", err)
	return s.force(ctx, c, current)
}

// force ends a run without its shim, and if need be the shim too.
func (s *Service) force(ctx context.Context, c *container, current *run) error {
	limited, cancel := context.WithTimeout(ctx, forceLimit)
	defer cancel()
	err := s.cgroupOf(c.id).Kill(limited)
	if err == nil && s.exitsWithin(ctx, current, forceLimit) {
		return nil
	}
	if !c.isEnding() {
		_, err = s.deleteShim(ctx, c.id) // which ends the wait for the process in watch
	}
	if s.exitsWithin(ctx, current, forcePatience) {
		return nil
	}
	return errdefs.As(errdefs.ErrUnavailable, errors.Join(errors.New("it has not ended after SIGKILL"), err))
}

func (c *container) howToStop(how Stopping) (syscall.Signal, time.Duration, error) {
	spec := c.snapshot().GetSpec()
	name := how.Signal
	if name == "" {
		name = c.image.stopSignal
	}
	if name == "" {
		name = "SIGTERM"
	}
	signal, err := parseSignal(name)
	if err != nil {
		return 0, 0, err
	}
	timeout := defaultStopTimeout
	if spec.GetStopTimeout() != nil {
		timeout = spec.GetStopTimeout().AsDuration()
	}
	if how.Timeout != nil {
		timeout = *how.Timeout
	}
	return signal, timeout, nil
}

// markStopped takes the restart policy out of play.
func (s *Service) markStopped(c *container) (*run, status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history.stopped = true
	if err := c.saveState(); err != nil {
		s.cfg.Logger.Error("cannot write down that a container was stopped", "container", c.id, "error", err)
	}
	return c.current, c.message.GetState().GetStatus()
}

// exitsWithin waits for the end of a run and of all that surrounded it. A negative limit is none.
func (s *Service) exitsWithin(ctx context.Context, current *run, limit time.Duration) bool {
	var end <-chan time.Time
	if limit >= 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		end = timer.C
	}
	select {
	case <-current.done:
		return true
	case <-end:
		return false
	case <-ctx.Done():
		return false
	}
}

// signal sends a signal to the process of a run. A process that has just ended makes no error.
func (s *Service) signal(ctx context.Context, c *container, current *run, signal syscall.Signal, all bool) error {
	err := current.task().Kill(ctx, "", signal, all)
	if errors.Is(err, shims.ErrNoAnswer) {
		return err
	}
	// A process that can't be signalled is most likely ending, which may take as long as its slowest client.
	if err != nil && !s.exitsWithin(ctx, current, endPatience) {
		return err
	}
	s.publish(c, "kill", "signal", strconv.Itoa(int(signal)))
	return nil
}

// Kill sends a signal. It returns when the container has ended if the signal is SIGKILL, so that it can be removed or started
// next, and at once after any other.
func (s *Service) Kill(ctx context.Context, ref, signal string, all bool) error {
	if signal == "" {
		signal = "SIGKILL"
	}
	number, err := parseSignal(signal)
	if err != nil {
		return err
	}
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	current, err := c.running("kill")
	if err != nil {
		return err
	}
	// A container that is told to end is not to be started again by its restart policy.
	if stop, _, err := c.howToStop(Stopping{}); number == syscall.SIGKILL || err == nil && number == stop {
		s.markStopped(c)
	}
	if number == syscall.SIGKILL {
		err = s.kill(context.WithoutCancel(ctx), c, current, all)
	} else {
		err = s.signal(ctx, c, current, number, all)
	}
	if err != nil {
		return fmt.Errorf("cannot kill container %q: %w", c.snapshot().GetName(), err)
	}
	return nil
}

// Restart stops a container, if it runs, and starts it.
func (s *Service) Restart(ctx context.Context, ref string, how Stopping) error {
	c, release, err := s.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	ctx = context.WithoutCancel(ctx)
	c.keepAfterExit(true)
	if err := s.stopHeld(ctx, c, how); err != nil {
		c.keepAfterExit(false)
		return err
	}
	if c.isRemoved() {
		return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("no such container: %q: it was removed while it stopped", ref))
	}
	if _, err := s.startHeld(ctx, c, byClient, nil); err != nil {
		return err
	}
	s.publish(c, "restart")
	return nil
}

// keepAfterExit says whether the exit to come belongs to a restart or a removal: --rm does not apply then.
func (c *container) keepAfterExit(keep bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history.noRemove = keep
}

// Pause freezes all processes of a container.
func (s *Service) Pause(ctx context.Context, ref string) error {
	c, release, err := s.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	current, err := c.running("pause")
	if err != nil {
		return err
	}
	if c.status() == statusPaused {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.refuse("pause")
	}
	if err := current.task().Pause(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("cannot pause container %q: %w", c.snapshot().GetName(), err)
	}
	if !s.recordActive(c, current, func(m *berthv1.Container) { m.State.Status = statusPaused }) {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot pause container %q: it has ended", c.snapshot().GetName()))
	}
	s.publish(c, "pause")
	return nil
}

// Resume thaws them.
func (s *Service) Resume(ctx context.Context, ref string) error {
	c, release, err := s.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	current, err := c.running("resume")
	if err != nil {
		return err
	}
	if c.status() != statusPaused {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot resume container %q: it is not paused", c.snapshot().GetName()))
	}
	return s.thaw(context.WithoutCancel(ctx), c, current)
}

func (s *Service) thaw(ctx context.Context, c *container, current *run) error {
	if err := current.task().Resume(ctx); err != nil && !s.exitsWithin(ctx, current, 0) {
		return fmt.Errorf("cannot resume container %q: %w", c.snapshot().GetName(), err)
	}
	thawed := false
	s.recordActive(c, current, func(m *berthv1.Container) {
		thawed = m.GetState().GetStatus() == statusPaused
		m.State.Status = statusRunning
	})
	if thawed {
		s.publish(c, "unpause")
	}
	return nil
}
