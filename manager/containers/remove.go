package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

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
	c, release, err := s.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	return s.removeHeld(context.WithoutCancel(ctx), c, how)
}

// removeHeld removes a container whose life the caller holds.
func (s *Service) removeHeld(ctx context.Context, c *container, how Removal) error {
	name := c.snapshot().GetName()
	if current := c.active(); current != nil {
		if !how.Force {
			return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf(
				"cannot remove container %q: it is %s; stop it first, or remove it with force", name, statusWord(c.status())))
		}
		now := time.Duration(0)
		c.mu.Lock()
		c.history.noRemove = true // we are at it
		c.mu.Unlock()
		if err := s.stopHeld(ctx, c, Stopping{Signal: "SIGKILL", Timeout: &now}); err != nil {
			return err
		}
	}
	if err := c.transition(stepRemove, func(m *berthv1.Container) { m.State.Status = statusRemoving }); err != nil {
		return fmt.Errorf("cannot remove container %q: %w", name, err)
	}
	if err := s.takeApart(ctx, c, how.Volumes); err != nil {
		s.record(c, stepRemove, func(m *berthv1.Container) { m.State.Status, m.State.Error = statusDead, err.Error() })
		return fmt.Errorf("cannot remove container %q: %w", name, err)
	}
	s.publish(c, "destroy")
	s.forget(c)
	c.failAttachments(errdefs.As(errdefs.ErrNotFound, fmt.Errorf("container %q was removed", name)))
	c.markRemoved()
	return nil
}

// active returns the current run, if there is one.
func (c *container) active() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

// takeApart removes all that belongs to a container; its directory last, because that makes it known.
func (s *Service) takeApart(ctx context.Context, c *container, volumes bool) error {
	err := together(
		func() error { return s.disconnect(ctx, c) },
		func() error {
			if err := s.removeBundle(c); err != nil {
				return err
			}
			return s.removeSnapshot(ctx, c.id)
		},
		func() error { return s.cfg.Volumes.Release(ctx, c.id, volumes) },
	)
	if err != nil {
		return err
	}
	// What makes it known goes first: with that and without its state, it would be one that was never started.
	if err := os.Remove(filepath.Join(c.dir, configFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove what makes the container known: %w", err)
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("cannot remove the container's directory: %w", err)
	}
	return nil
}

// removeLater removes a container that removes itself, when those who hold its life are done.
func (s *Service) removeLater(c *container) {
	s.owned.Go(func() {
		_, release, err := s.hold(s.work, c.id)
		if err != nil {
			return
		}
		defer release()
		if c.active() != nil {
			return
		}
		if err := s.removeHeld(context.WithoutCancel(s.work), c, Removal{Volumes: true}); err != nil {
			s.cfg.Logger.Error("cannot remove a container that has ended", "container", c.id, "error", err)
		}
	})
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
		if isActive(state) || state == statusRestarting || !match(message) {
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
