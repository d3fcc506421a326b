package containers

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Removal says how much of a container is removed.
type Removal struct {
	// Force kills it first if it runs.
	Force bool
	// Volumes removes its anonymous volumes too.
	Volumes bool
}

// Remove deletes a container and all that belongs to it.
func (s *Service) Remove(ctx context.Context, ref string, how Removal) error {
	c, release, err := s.holdAny(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	return s.removeHeld(context.WithoutCancel(ctx), c, how)
}

// removeHeld removes a container whose life the caller holds.
func (s *Service) removeHeld(ctx context.Context, c *container, how Removal) error {
	name := c.snapshot().GetName()
	if err := s.endForRemoval(ctx, c, how.Force); err != nil {
		return err
	}
	c.mu.Lock()
	c.history.withVolumes = how.Volumes
	c.mu.Unlock()
	s.record(c, stepRemove, func(m *berthv1.Container) { m.State.Status, m.State.Error = statusRemoving, "" })
	if err := s.removeEverything(ctx, c, how.Volumes); err != nil {
		s.record(c, stepRemove, func(m *berthv1.Container) { m.State.Status, m.State.Error = statusDead, err.Error() })
		return fmt.Errorf("cannot remove container %q: %w", name, err)
	}
	s.publish(c, "destroy")
	s.forget(c)
	c.failAttachments(errdefs.As(errdefs.ErrNotFound, fmt.Errorf("container %q was removed", name)))
	c.markRemoved()
	return nil
}

// endForRemoval sees to it that a container has no process: with force it is killed.
func (s *Service) endForRemoval(ctx context.Context, c *container, force bool) error {
	if current := c.active(); current != nil && c.isEnding() {
		s.exitsWithin(ctx, current, endPatience)
	}
	current, state := c.active(), c.status()
	if !force && (current != nil || state == statusRestarting) {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf(
			"cannot remove container %q: it is %s; stop it first, or remove it with force", c.snapshot().GetName(), statusWord(state)))
	}
	if !force && state == statusUnknown {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.refuse("remove")
	}
	if current == nil {
		return nil
	}
	c.keepAfterExit(true) // we are at it
	s.markStopped(c)
	if err := s.kill(ctx, c, current, false); err != nil {
		c.keepAfterExit(false)
		return fmt.Errorf("cannot remove container %q: %w", c.snapshot().GetName(), err)
	}
	return nil
}

// active returns the current run, if there is one.
func (c *container) active() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

// removeEverything removes all that belongs to a container; its directory last, because that makes it known. Nothing here
// needs room on a disk. What surrounded its last run may stay and be removed later, but for processes and mounts.
func (s *Service) removeEverything(ctx context.Context, c *container, volumes bool) error {
	var leftovers error
	err := together(
		func() error {
			leftovers = s.disconnect(ctx, c)
			return nil
		},
		func() error {
			if err := s.removeRun(ctx, c); err != nil {
				return err
			}
			return s.removeSnapshot(ctx, c.id)
		},
	)
	if err != nil {
		return err
	}
	if err := s.cfg.Volumes.Release(ctx, c.id, volumes); err != nil {
		return err
	}
	if err := c.files.Remove(); err != nil {
		return err
	}
	if leftovers != nil {
		s.cfg.Logger.Warn("cannot disconnect a container that was removed; it is tried again", "container", c.id, "error", leftovers)
		s.cleanLater(c.id)
	}
	return nil
}

// removeRun removes what the last run of a container has left, usually nothing. A bundle that can't be cleaned up stays for
// another attempt if no process is left, and nothing is mounted.
func (s *Service) removeRun(ctx context.Context, c *container) error {
	if _, err := os.Stat(c.bundle); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	_, err := s.deleteShim(ctx, c.id)
	if err == nil {
		return s.removeBundle(c)
	}
	if errors.Is(err, errAlive) {
		return err
	}
	s.cfg.Logger.Warn("cannot clean up behind a container that is removed; it is tried again", "container", c.id, "error", err)
	s.cleanLater(c.id)
	return unmountBundle(c.bundle)
}

// removeLater removes a container that removes itself, when those who hold its life are done.
func (s *Service) removeLater(c *container) {
	s.background("the removal of a container", func() {
		if s.removeEnded(c) != nil {
			s.retry(func() error { return s.removeEnded(c) })
		}
	})
}

// removeEnded removes a container that has ended. It does nothing if that was started again, or is gone.
func (s *Service) removeEnded(c *container) error {
	_, release, err := s.hold(s.work, c.id)
	if err != nil {
		return nil
	}
	defer release()
	if c.active() != nil {
		return nil
	}
	err = s.removeHeld(context.WithoutCancel(s.work), c, Removal{Volumes: true})
	if err != nil {
		s.cfg.Logger.Error("cannot remove a container that has ended; it is tried again", "container", c.id, "error", err)
	}
	return err
}

// Prune removes every container that does not run and fits the filters (label, until), and returns their IDs and what
// their layers took.
func (s *Service) Prune(ctx context.Context, filters []*berthv1.Filter) (removed []string, reclaimed int64, err error) {
	match, err := pruneFilter(filters)
	if err != nil {
		return nil, 0, err
	}
	var errs []error
	for _, c := range s.all() {
		message := c.snapshot()
		state := message.GetState().GetStatus()
		if isActive(state) || state == statusRestarting || state == statusUnknown || !match(message) {
			continue
		}
		s.measure(ctx, message)
		err := s.Remove(ctx, c.id, Removal{})
		if err == nil {
			removed, reclaimed = append(removed, c.id), reclaimed+message.GetSizeRw()
		} else if !errors.Is(err, errdefs.ErrNotFound) && !errors.Is(err, errdefs.ErrFailedPrecondition) {
			errs = append(errs, err)
		}
	}
	return removed, reclaimed, errors.Join(errs...)
}
