package containers

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/berthd/berth/internal/errdefs"
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

// stopHeld stops a container whose life the caller holds. Its restart policy does not start it again.
func (s *Service) stopHeld(ctx context.Context, c *container, how Stopping) error {
	signal, timeout, err := c.howToStop(how)
	if err != nil {
		return err
	}
	current, before, err := c.markStopped()
	if err != nil {
		return err
	}
	if before == statusRestarting && current == nil {
		s.record(c, stepNone, func(m *berthv1.Container) { m.State.Status = statusExited })
		return nil
	}
	if current == nil {
		return nil
	}
	if err := s.signal(ctx, c, current, signal, false); err != nil {
		return fmt.Errorf("cannot stop container %q: %w", c.snapshot().GetName(), err)
	}
	if before == statusPaused && signal != syscall.SIGKILL { // a frozen process handles no signal; the runtime's SIGKILL thaws
		if err := s.thaw(ctx, c, current); err != nil {
			return err
		}
	}
	if s.exitsWithin(ctx, current, timeout) {
		s.publish(c, "stop")
		return nil
	}
	if err := s.signal(ctx, c, current, syscall.SIGKILL, false); err != nil {
		return fmt.Errorf("cannot kill container %q: %w", c.snapshot().GetName(), err)
	}
	if !s.exitsWithin(ctx, current, killPatience) {
		return errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("container %q has not ended %v after SIGKILL", c.snapshot().GetName(), killPatience))
	}
	s.publish(c, "stop")
	return nil
}

// endPatience is how long the end of a process may take to be known.
const endPatience = 15 * time.Second

// killPatience is how long a process may take to end after SIGKILL: one in the kernel's hands can't be hurried.
const killPatience = time.Minute

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
func (c *container) markStopped() (*run, status, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	return c.current, c.message.GetState().GetStatus(), c.saveState()
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
	// What can't be signalled is most likely ending; all of its end may take as long as its slowest client.
	if err != nil && !s.exitsWithin(ctx, current, endPatience) {
		return err
	}
	s.publish(c, "kill", "signal", strconv.Itoa(int(signal)))
	return nil
}

// Kill sends a signal and does not wait.
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
	// Who kills a container does not want it restarted.
	if stop, _, err := c.howToStop(Stopping{}); number == syscall.SIGKILL || err == nil && number == stop {
		if _, _, err := c.markStopped(); err != nil {
			return err
		}
	}
	if err := s.signal(ctx, c, current, number, all); err != nil {
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
	c.mu.Lock()
	c.history.noRemove = true
	c.mu.Unlock()
	if err := s.stopHeld(ctx, c, how); err != nil {
		return err
	}
	if _, err := s.startHeld(ctx, c, nil); err != nil {
		return err
	}
	s.publish(c, "restart")
	return nil
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
	s.record(c, stepNone, func(m *berthv1.Container) { m.State.Status = statusPaused })
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
	c.mu.Lock()
	paused := c.message.GetState().GetStatus() == statusPaused
	c.mu.Unlock()
	if paused {
		s.record(c, stepNone, func(m *berthv1.Container) { m.State.Status = statusRunning })
		s.publish(c, "unpause")
	}
	return nil
}
