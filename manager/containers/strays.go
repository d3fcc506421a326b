package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/cgroups"
	"github.com/berthd/berth/manager/netns"
	"github.com/berthd/berth/manager/shims"
)

// A bundle has what is needed to clean up behind a run: the shim's socket and process, the runtime and its state, the path of
// the cgroup. It is kept until that is done, also beyond its container, and tried again: by a goroutine of this berthd, before
// the container is started or removed, and at the start of the next berthd.

// errAlive says that processes of a container go on after SIGKILL.
var errAlive = errors.New("a process of the container does not end")

// forceLimit is how long processes may take to end after SIGKILL: one that the kernel holds can't be hurried.
const forceLimit = 5 * time.Second

// deleteShim ends a shim that is of no use any more, and with it the container's processes, and has what the OCI runtime left
// removed. If that fails, the processes are killed all the same; the error is errAlive if they do not end.
func (s *Service) deleteShim(ctx context.Context, id string) (shims.Exited, error) {
	bundle := s.bundleDir(id)
	cgroup := s.cgroupOf(id)
	exited, err := shims.Exited{Code: lostCode, At: time.Now()}, error(nil)
	if _, statErr := os.Stat(bundle); statErr == nil {
		release := slot(ctx, s.helpers)
		exited, err = s.cfg.Shims.Delete(ctx, id, bundle)
		release()
		if err == nil {
			s.removeStreams(id)
			return exited, nil
		}
		exited = shims.Exited{Code: lostCode, At: time.Now()}
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), forceLimit)
	defer cancel()
	if killErr := cgroup.Kill(limited); killErr != nil {
		return exited, fmt.Errorf("%w: %w", errAlive, errors.Join(err, killErr))
	}
	cgroup.Remove()
	return exited, err
}

// idLength is that of each container's ID.
const idLength = 64

// isID tells whether a name is that of a container's directory. What else lies beside those, as lost+found, is somebody's.
func isID(name string) bool {
	return len(name) == idLength && strings.Trim(name, "0123456789abcdef") == ""
}

func (s *Service) bundleDir(id string) string { return filepath.Join(s.stateDir("bundles"), id) }

// cgroupOf finds a container's cgroup: the bundle names it, unless it is gone.
func (s *Service) cgroupOf(id string) cgroups.Group {
	var config struct {
		Linux struct {
			CgroupsPath string `json:"cgroupsPath"`
		} `json:"linux"`
	}
	content, err := os.ReadFile(filepath.Join(s.bundleDir(id), "config.json"))
	if err != nil || json.Unmarshal(content, &config) != nil || config.Linux.CgroupsPath == "" {
		return cgroups.At(filepath.Join(s.cfg.CgroupParent, id))
	}
	return cgroups.At(config.Linux.CgroupsPath)
}

// slotLimit is how long one task may keep others waiting: one that hangs does not count any longer.
const slotLimit = 5 * time.Second

// slot waits for one of a number of slots, so that not more helpers run at once than there are processors.
func slot(ctx context.Context, slots chan struct{}) (release func()) {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return func() {}
	}
	give := sync.OnceFunc(func() { <-slots })
	timer := time.AfterFunc(slotLimit, give)
	return func() {
		timer.Stop()
		give()
	}
}

// clean takes away what a run of a container has left. The caller holds the container's life, if there is a container.
func (s *Service) clean(ctx context.Context, id string) error {
	_, err := s.deleteShim(ctx, id)
	if err == nil {
		err = removeBundleDir(s.bundleDir(id))
	}
	s.removeStreams(id)
	return errors.Join(err, netns.Remove(s.netnsPath(id)), s.cfg.Networks.Detach(ctx, id))
}

// removeStreams removes the sockets of a run that has ended, and of its execs: a shim that was killed has left them.
func (s *Service) removeStreams(id string) {
	dir, prefix := filepath.Split(s.streamPath(id, ""))
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), prefix) {
			_ = os.Remove(filepath.Join(dir, entry.Name())) // the next berthd tries again
		}
	}
}

// cleanLeftovers does what could not be done when the container's last run ended.
func (s *Service) cleanLeftovers(ctx context.Context, c *container) error {
	if _, err := os.Stat(c.bundle); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := s.clean(ctx, c.id); err != nil {
		return fmt.Errorf("what its last run has left can't be cleaned up: %w", err)
	}
	return nil
}

// The pauses between attempts to do what has failed, as a clean-up or a removal.
const (
	firstRetry = time.Second
	maxRetry   = time.Minute
)

// retry calls try until it succeeds or berthd ends, first after a pause.
func (s *Service) retry(try func() error) {
	for pause := firstRetry; ; pause = min(2*pause, maxRetry) {
		select {
		case <-time.After(pause):
		case <-s.work.Done():
			return
		}
		if try() == nil {
			return
		}
	}
}

// cleanLater has a clean-up that failed tried again, once at a time for a container.
func (s *Service) cleanLater(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cleaning[id] {
		return
	}
	s.cleaning[id] = true
	s.background("the clean-up behind a container", func() {
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.cleaning, id)
		}()
		s.retry(func() error { return s.cleanAgain(s.work, id) })
		if s.work.Err() == nil {
			s.cfg.Logger.Info("cleaned up behind a container", "container", id)
		}
	})
}

// cleanAgain is clean without the container's life.
func (s *Service) cleanAgain(ctx context.Context, id string) error {
	c, release, err := s.holdAny(ctx, id)
	switch {
	case errors.Is(err, errdefs.ErrNotFound): // it was removed, and nothing else has its ID
	case err != nil:
		return err
	default:
		defer release()
		if c.active() != nil { // it was started since, which cleans up first
			return nil
		}
	}
	return s.clean(ctx, id)
}

// removeStrays removes bundles, processes, network namespaces, snapshots and state of the runtime that belong to no
// container, or to one that does not run. What takes long goes on in the background.
func (s *Service) removeStrays(ctx context.Context, connected []string) error {
	leftovers := map[string]bool{}
	var errs []error
	for _, dir := range []string{s.stateDir("bundles"), s.stateDir("netns"), s.cfg.Shims.RuntimeState()} {
		names, err := strays(dir, func(name string) bool { return slices.Contains(connected, name) })
		errs = append(errs, err)
		for _, name := range names {
			if isID(name) {
				leftovers[name] = true
			}
		}
	}
	var group sync.WaitGroup
	for id := range leftovers {
		group.Add(1)
		s.background("the clean-up behind a container", func() {
			defer group.Done()
			err := s.cleanAgain(ctx, id)
			if err == nil {
				err = s.removeRuntimeState(ctx, id)
			}
			if err != nil {
				s.cfg.Logger.Warn("cannot clean up behind a container that does not run; it is tried again", "container", id, "error", err)
				s.cleanLater(id)
			}
		})
	}
	waitFor(&group, restorePatience)
	return errors.Join(append(errs, s.removeStraySnapshots(ctx))...)
}

// removeRuntimeState removes what the OCI runtime still knows of a container whose bundle is gone, and its process.
func (s *Service) removeRuntimeState(ctx context.Context, id string) error {
	if _, err := os.Stat(filepath.Join(s.cfg.Shims.RuntimeState(), id)); err != nil {
		return ignoreNotExist(err)
	}
	release := slot(ctx, s.helpers)
	defer release()
	err := s.cfg.Shims.DeleteRuntimeState(ctx, id)
	limited, cancel := context.WithTimeout(ctx, forceLimit)
	defer cancel()
	return errors.Join(err, s.cgroupOf(id).Kill(limited))
}

func (s *Service) removeStraySnapshots(ctx context.Context) error {
	snapshots, err := s.ownedSnapshots(ctx)
	errs := []error{err}
	for _, id := range snapshots {
		if _, err := os.Stat(s.recordDir(id)); errors.Is(err, os.ErrNotExist) {
			errs = append(errs, s.removeSnapshot(ctx, id))
		}
	}
	return errors.Join(errs...)
}

// strays lists the entries of a directory that belong to nobody.
func strays(dir string, belongs func(name string) bool) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot look for what earlier containers have left: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if !belongs(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// waitFor waits for a group, but not for ever.
func waitFor(group *sync.WaitGroup, limit time.Duration) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		group.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(limit):
	}
}

func ignoreNotExist(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
