package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/bundle"
	"github.com/berthd/berth/manager/shims"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// restorePatience is how long a berthd that starts waits for containers to be back. A shim that hangs, or a clean-up, must not
// keep it from serving the others: what takes longer goes on in the background, while the container is held.
const restorePatience = 15 * time.Second

// Restore brings back the containers that an earlier daemon has left: it reconnects to the shims of those that run,
// records the ends of those that ended meanwhile, finishes or undoes what was interrupted, and removes what belongs to
// no container. It is called once, before any other method; what it can't mend it logs.
func (s *Service) Restore(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(s.cfg.Root, recordsDir))
	if err != nil {
		return fmt.Errorf("cannot list containers: %w", err)
	}
	var back, done sync.WaitGroup
	networked := make(chan struct{}) // closed when starts may be made: they need the networks' bookkeeping to be right
	for _, entry := range entries {
		if !isID(entry.Name()) {
			s.cfg.Logger.Warn("leaving alone what is no container's directory", "path", filepath.Join(s.cfg.Root, recordsDir, entry.Name()))
			continue
		}
		c := s.readBack(ctx, entry.Name())
		if c == nil {
			continue
		}
		back.Add(1)
		done.Add(1)
		s.background("the return of a container", func() {
			defer done.Done()
			after := s.bringBack(ctx, c, &back)
			select {
			case <-networked:
			case <-s.work.Done():
				return
			}
			if after != nil {
				after()
			}
		})
	}
	waitFor(&back, restorePatience)
	connected := s.connected()
	err = errors.Join(s.removeStrays(ctx, connected), s.cfg.Networks.GC(ctx, connected), s.cfg.Volumes.Reconcile(ctx, s.ids()))
	close(networked)
	waitFor(&done, restorePatience)
	return err
}

// connected are the containers that have, or may have, a process, and so a place in their networks.
func (s *Service) connected() []string {
	var ids []string
	for _, c := range s.all() {
		c.mu.Lock()
		if c.current != nil || c.history.returning || c.history.unreadable != nil {
			ids = append(ids, c.id)
		}
		c.mu.Unlock()
	}
	return ids
}

func (s *Service) ids() []string {
	var ids []string
	for _, c := range s.all() {
		ids = append(ids, c.id)
	}
	return ids
}

// readBack reads a container's records. It is nil if there is nothing more to bring back.
func (s *Service) readBack(ctx context.Context, id string) *container {
	log := s.cfg.Logger.With("container", id)
	c, err := s.load(id)
	if errors.Is(err, errdefs.ErrNotFound) { // its creation had not got as far as to tell what it is
		if err := errors.Join(s.removeSnapshot(ctx, id), s.cfg.Volumes.Release(ctx, id, true), os.RemoveAll(s.recordDir(id))); err != nil {
			log.Error("cannot undo a creation that was interrupted", "error", err)
		}
		return nil
	}
	if err := s.claimName(c, c.message.GetName()); err != nil {
		log.Error("two containers have one name", "error", err)
	}
	if c.history.unreadable != nil {
		log.Error("cannot read a container; it is left alone until it is removed by force", "error", c.history.unreadable)
		s.add(c)
		return nil
	}
	c.history.returning = true
	s.add(c)
	return c
}

// bringBack reconnects to a container, or records its end, and holds its life meanwhile. It returns what is to be done when all
// containers are back.
func (s *Service) bringBack(ctx context.Context, c *container, back *sync.WaitGroup) (after func()) {
	defer back.Done()
	c.life <- struct{}{}
	defer func() { <-c.life }()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.history.returning = false
	}()
	switch c.step {
	case stepRemove:
		return func() { s.finishRemoval(ctx, c) }
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

// finishRemoval removes a container whose removal was interrupted, with its anonymous volumes if that removal was to. A client may
// have removed it first.
func (s *Service) finishRemoval(ctx context.Context, c *container) {
	_, release, err := s.holdAny(ctx, c.id)
	if err != nil {
		return
	}
	defer release()
	volumes := c.history.withVolumes || c.message.GetSpec().GetAutoRemove()
	if err := s.removeHeld(ctx, c, Removal{Volumes: volumes}); err != nil {
		s.cfg.Logger.Error("cannot finish a removal that was interrupted", "container", c.id, "error", err)
	}
}

// afterwards removes a container that should have removed itself, whatever kept it from its end: as with docker, none stays that
// does not run when the daemon starts.
func (s *Service) afterwards(c *container) func() {
	if c.message.GetSpec().GetAutoRemove() && !isActive(c.status()) {
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
		return !c.history.stopped
	}
	return false
}

func (s *Service) startWithDaemon(ctx context.Context, c *container) {
	s.background("the start of a container", func() {
		release := slot(ctx, s.starts)
		defer release()
		if _, err := s.Start(ctx, c.id, nil); err != nil {
			s.cfg.Logger.Error("cannot start a container whose restart policy wants it to run", "container", c.id, "error", err)
		}
	})
}

// reconnect finds the shim of a container that ran, or was about to, when the daemon ended.
func (s *Service) reconnect(ctx context.Context, c *container) (after func()) {
	task, err := s.cfg.Shims.Connect(c.id, c.bundle)
	if err != nil {
		return s.recordLostRun(ctx, c, nil)
	}
	state, err := task.State(ctx, "")
	if errors.Is(err, shims.ErrNoAnswer) && c.step == stepNone {
		s.cfg.Logger.Warn("the shim of a container does not answer; the container counts as it was", "container", c.id, "error", err)
		s.begin(c, s.runAgain(c, task), "", func(*berthv1.Container) {})
		return nil
	}
	if err != nil || c.step == stepCleanUp || state.Created {
		return s.recordLostRun(ctx, c, task)
	}
	if c.step == stepStart { // its place in the networks is not recorded yet; asked again, they tell it
		if err := s.plugIn(ctx, c); err != nil {
			s.cfg.Logger.Warn("cannot tell how a container is connected", "container", c.id, "error", err)
		}
	}
	current := s.runAgain(c, task)
	if !state.Running && !state.Paused {
		c.mu.Lock()
		c.current = current
		c.mu.Unlock()
		return func() { s.watch(c, current) } // to its end, before anybody asks
	}
	s.begin(c, current, "", func(m *berthv1.Container) {
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

// runAgain is a run that goes on from an earlier berthd.
func (s *Service) runAgain(c *container, task *shims.Task) *run {
	env, err := bundle.Environment(c.bundle)
	if err != nil {
		s.cfg.Logger.Warn("cannot read back the environment of a container: what is executed in it lacks it", "container", c.id, "error", err)
	}
	return newRun(task, env)
}

// recordLostRun records the end of a container that has no process any more, as far as its shim has left word of it, and
// clears up behind it.
func (s *Service) recordLostRun(ctx context.Context, c *container, task *shims.Task) (after func()) {
	if task != nil {
		_ = task.Close()
	}
	interrupted := c.step == stepStart
	exited, shimErr := s.deleteShim(ctx, c.id)
	err := errors.Join(shimErr, s.disconnect(ctx, c))
	if shimErr == nil {
		err = errors.Join(err, s.removeBundle(c))
	}
	if err != nil {
		s.cfg.Logger.Error("cannot clean up behind a container; it is tried again", "container", c.id, "error", err)
		s.cleanLater(c.id)
	}
	known := c.step == stepCleanUp
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
