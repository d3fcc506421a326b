package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/bundle"
	"github.com/berthd/berth/manager/netns"
	"github.com/berthd/berth/manager/shims"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Restore brings back the containers that an earlier daemon has left: it reconnects to the shims of those that run,
// records the ends of those that ended meanwhile, finishes or undoes what was interrupted, and removes what belongs to
// no container. It is called once, before any other method; what it can't mend it logs.
func (s *Service) Restore(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(s.cfg.Root, recordsDir))
	if err != nil {
		return fmt.Errorf("cannot list containers: %w", err)
	}
	var mu sync.Mutex
	var pending []func()
	var group sync.WaitGroup
	for _, entry := range entries {
		group.Go(func() {
			after := s.restoreOne(ctx, entry.Name())
			mu.Lock()
			defer mu.Unlock()
			pending = append(pending, after)
		})
	}
	group.Wait()
	err = errors.Join(s.removeStrays(ctx), s.cfg.Networks.GC(ctx, s.connected()))
	// Starts need the networks, whose bookkeeping is right only now.
	for _, after := range pending {
		if after != nil {
			after()
		}
	}
	return err
}

// connected are the containers that have a process, and so a place in their networks.
func (s *Service) connected() []string {
	var ids []string
	for _, c := range s.all() {
		if c.active() != nil {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// restoreOne brings back one container. It returns what is to be done when all are back.
func (s *Service) restoreOne(ctx context.Context, id string) (after func()) {
	log := s.cfg.Logger.With("container", id)
	c, err := s.load(id)
	if errors.Is(err, errdefs.ErrNotFound) { // its creation had not got as far as to tell what it is
		if err := errors.Join(s.removeSnapshot(ctx, id), s.cfg.Volumes.Release(ctx, id, true), os.RemoveAll(s.recordDir(id))); err != nil {
			log.Error("cannot undo a creation that was interrupted", "error", err)
		}
		return nil
	}
	if err != nil {
		log.Error("cannot read a container; it is left alone", "error", err)
		return nil
	}
	if err := s.claimName(c, c.message.GetName()); err != nil {
		log.Error("two containers have one name", "error", err)
	}
	s.add(c)
	switch c.step {
	case stepRemove:
		return func() {
			c.life <- struct{}{}
			defer func() { <-c.life }()
			if err := s.removeHeld(ctx, c, Removal{Volumes: c.message.GetSpec().GetAutoRemove()}); err != nil {
				log.Error("cannot finish a removal that was interrupted", "error", err)
			}
		}
	case stepRestarts:
		return func() { s.restartLater(c, firstBackoff) }
	case stepNone, stepStart, stepCleanUp:
	}
	status := c.message.GetState().GetStatus()
	if isActive(status) || c.step != stepNone {
		return s.reconnect(ctx, c)
	}
	if c.startsWithDaemon() {
		return func() { s.startWithDaemon(ctx, c) }
	}
	return s.afterwards(c)
}

// afterwards removes a container that should have removed itself.
func (s *Service) afterwards(c *container) func() {
	if c.message.GetSpec().GetAutoRemove() && c.message.GetState().GetStatus() == statusExited {
		return func() { s.removeLater(c) }
	}
	return nil
}

// startsWithDaemon tells whether the restart policy wants a container that does not run to be started now.
func (c *container) startsWithDaemon() bool {
	if c.message.GetState().GetStatus() != statusExited {
		return false
	}
	switch c.message.GetSpec().GetRestart().GetCondition() {
	case berthv1.RestartCondition_RESTART_CONDITION_ALWAYS:
		return true
	case berthv1.RestartCondition_RESTART_CONDITION_UNLESS_STOPPED:
		return !c.stopped
	}
	return false
}

func (s *Service) startWithDaemon(ctx context.Context, c *container) {
	s.owned.Go(func() {
		if _, err := s.Start(ctx, c.id, nil); err != nil {
			s.cfg.Logger.Error("cannot start a container whose restart policy wants it to run", "container", c.id, "error", err)
		}
	})
}

// reconnect finds the shim of a container that ran, or was about to, when the daemon ended.
func (s *Service) reconnect(ctx context.Context, c *container) (after func()) {
	task, err := s.cfg.Shims.Connect(c.id, c.bundle)
	if err != nil {
		return s.settle(ctx, c, nil)
	}
	state, err := task.State(ctx, "")
	if err != nil || c.step == stepCleanUp || state.Created {
		return s.settle(ctx, c, task)
	}
	env, err := bundle.Environment(c.bundle)
	if err != nil {
		s.cfg.Logger.Warn("cannot read back the environment of a container: what is executed in it lacks it", "container", c.id, "error", err)
	}
	if c.step == stepStart { // its place in the networks is not recorded yet; asked again, they tell it
		if err := s.plugIn(ctx, c); err != nil {
			s.cfg.Logger.Warn("cannot tell how a container is connected", "container", c.id, "error", err)
		}
	}
	current := newRun(task, env)
	if !state.Running && !state.Paused {
		c.mu.Lock()
		c.current = current
		c.mu.Unlock()
		return func() { s.watch(c, current) } // to its end, before anybody asks
	}
	s.begin(c, current, func(m *berthv1.Container) {
		if m.State.GetStartedAt() == nil || c.step == stepStart {
			m.State.StartedAt = timestamppb.Now()
		}
		m.State.Pid = state.Pid
		if m.State.Status = statusRunning; state.Paused {
			m.State.Status = statusPaused
		}
	})
	return nil
}

// settle records the end of a container that has no process any more, as far as its shim has left word of it, and
// clears up behind it.
func (s *Service) settle(ctx context.Context, c *container, task *shims.Task) (after func()) {
	if task != nil {
		_ = task.Close()
	}
	interrupted := c.step == stepStart
	exited, err := s.cfg.Shims.Delete(ctx, c.id, c.bundle)
	if err != nil {
		exited = shims.Exited{Code: lostCode, At: time.Now()}
	}
	known := c.step == stepCleanUp
	err = errors.Join(s.disconnect(ctx, c), s.removeBundle(c))
	if err != nil {
		s.cfg.Logger.Error("cannot clean up behind a container", "container", c.id, "error", err)
	}
	s.record(c, stepNone, func(m *berthv1.Container) {
		m.State.Pid, m.Endpoints, m.Ports, m.ExecIds = 0, nil, nil, nil
		switch {
		case known:
			m.State.Status = statusExited
		case !interrupted:
			m.State.Status, m.State.ExitCode, m.State.FinishedAt = statusExited, exited.Code, timestamppb.New(exited.At)
		case m.State.GetStatus() == statusRestarting:
			m.State.Status = statusExited
			fallthrough
		default:
			m.State.Error = "berthd ended while it was starting the container"
		}
	})
	if c.snapshot().GetState().GetStatus() != statusExited {
		return s.afterwards(c)
	}
	s.cfg.Logger.Info("a container ended while berthd was away", "container", c.id, "exit_code", c.snapshot().GetState().GetExitCode())
	next, delay := s.whatNext(c)
	if next != statusRestarting {
		return s.afterwards(c)
	}
	s.record(c, stepRestarts, func(m *berthv1.Container) {
		m.State.Status = statusRestarting
		m.State.RestartCount++
	})
	return func() { s.restartLater(c, delay) }
}

// removeStrays removes bundles, network namespaces, streams and snapshots of containers that there are not, or that do
// not run.
func (s *Service) removeStrays(ctx context.Context) error {
	connected := s.connected()
	errs := []error{
		s.eachStray("bundles", connected, func(id, path string) error {
			if _, err := s.cfg.Shims.Delete(ctx, id, path); err != nil {
				s.cfg.Logger.Warn("cannot clean up behind a shim of nobody", "container", id, "error", err)
			}
			return removeBundleDir(path)
		}),
		s.eachStray("netns", connected, func(_, path string) error { return netns.Remove(path) }),
		s.eachStray("streams", connected, func(_, path string) error { return os.Remove(path) }),
	}
	snapshots, err := s.ownedSnapshots(ctx)
	errs = append(errs, err)
	for _, id := range snapshots {
		if _, err := os.Stat(s.recordDir(id)); errors.Is(err, os.ErrNotExist) {
			errs = append(errs, s.removeSnapshot(ctx, id))
		}
	}
	return errors.Join(errs...)
}

// eachStray calls remove for what is in a state directory and has the name of no container of the list.
func (s *Service) eachStray(dir string, valid []string, remove func(name, path string) error) error {
	entries, err := os.ReadDir(s.stateDir(dir))
	if err != nil {
		return fmt.Errorf("cannot look for strays: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		name := entry.Name()
		belongs := func(id string) bool { return name == id || dir == "streams" && len(name) >= 16 && id[:16] == name[:16] }
		if !slices.ContainsFunc(valid, belongs) {
			errs = append(errs, remove(name, filepath.Join(s.stateDir(dir), name)))
		}
	}
	return errors.Join(errs...)
}
