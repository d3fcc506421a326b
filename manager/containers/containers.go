// Package containers keeps the containers of this host: it makes them, runs them, and knows what became of them.
//
// A container is a directory below the root directory, with what it was made from (container.json), where it is in its
// life (state.json) and its log. While it runs it also has a bundle below the state directory, a network namespace
// pinned there, and a shim. Everything that happens is written down before it is done, so that a berthd that was killed
// in the middle finds out at its next start what to finish, to undo, or to leave alone.
package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/panics"
	"github.com/berthd/berth/manager/apparmor"
	"github.com/berthd/berth/manager/cgroups"
	"github.com/berthd/berth/manager/events"
	"github.com/berthd/berth/manager/images"
	"github.com/berthd/berth/manager/logs"
	"github.com/berthd/berth/manager/networks"
	"github.com/berthd/berth/manager/shims"
	"github.com/berthd/berth/manager/volumes"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Config is what a Service works with.
type Config struct {
	// Root and State are the daemon's directories: one outlives a reboot, the other does not.
	Root, State string
	Snapshots   snapshotsapi.SnapshotsClient
	// Snapshotter is the name that goes into each snapshots request.
	Snapshotter string
	Images      *images.Service
	Networks    *networks.Service
	Volumes     *volumes.Service
	Shims       *shims.Launcher
	Events      *events.Broker
	// AppArmor is the profile of containers that name none.
	AppArmor *apparmor.Profile
	// Init is the program that --init runs as process 1.
	Init string
	// CgroupParent holds the cgroup of each container that asks for no other.
	CgroupParent string
	// Daemon is the ID of the daemon, which its snapshots carry.
	Daemon string
	Logger *slog.Logger
}

// Service is the containers of one host.
type Service struct {
	cfg    Config
	work   context.Context // ends with the daemon: for what no client waits for
	cancel context.CancelFunc
	owned  sync.WaitGroup
	// logWatcher tells those who follow a log what is written.
	logWatcher logs.Watcher

	// helpers and starts have a slot for each helper, or start after a reboot, that may run at once.
	helpers, starts chan struct{}

	mu       sync.Mutex
	byID     map[string]*container
	byName   map[string]*container
	cleaning map[string]bool // IDs of those that cleanLater looks after
}

// New returns a service without containers; Restore brings back those of an earlier one.
func New(cfg Config) (*Service, error) {
	s := &Service{
		cfg: cfg, byID: map[string]*container{}, byName: map[string]*container{}, cleaning: map[string]bool{},
		helpers: make(chan struct{}, runtime.NumCPU()), starts: make(chan struct{}, runtime.NumCPU()),
	}
	s.work, s.cancel = context.WithCancel(context.Background())
	dirs := []string{
		filepath.Join(cfg.Root, recordsDir), s.stateDir("bundles"), s.stateDir("netns"), s.stateDir("records"),
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("cannot make a directory for containers: %w", err)
		}
	}
	return s, nil
}

// closeLimit bounds Close: what is not done by then is found in the records by the next berthd.
const closeLimit = 5 * time.Second

// Close lets go of the containers, which go on without the daemon. If none has a process, their common cgroup goes.
func (s *Service) Close() {
	s.cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.owned.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(closeLimit):
		s.cfg.Logger.Warn("leaving what is being done with containers to the next berthd: it takes too long")
		return
	}
	if len(s.connected()) == 0 {
		cgroups.At(s.cfg.CgroupParent).RemoveOne()
	}
}

// background runs a task that no client waits for. A panic in it is logged and ends nothing else: the container that the task
// was about may be left as it was, until the next berthd.
func (s *Service) background(task string, run func()) {
	s.owned.Go(func() {
		defer panics.Recover(s.cfg.Logger, task, nil)
		run()
	})
}

func (s *Service) stateDir(name string) string { return filepath.Join(s.cfg.State, name) }

// find looks a container up by ID, by name, or by a prefix of its ID.
func (s *Service) find(ref string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byID[ref]; c != nil {
		return c, nil
	}
	if c := s.byName[strings.TrimPrefix(ref, "/")]; c != nil {
		return c, nil
	}
	var found *container
	for id, c := range s.byID {
		if ref == "" || !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("container %q is ambiguous: several IDs begin with it", ref))
		}
		found = c
	}
	if found == nil {
		return nil, errdefs.As(errdefs.ErrNotFound, fmt.Errorf("no such container: %q", ref))
	}
	return found, nil
}

// hold finds a container and keeps every other change of its life away until release is called. A container whose records
// can't be read is not changed.
func (s *Service) hold(ctx context.Context, ref string) (c *container, release func(), err error) {
	c, release, err = s.holdAny(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	if c.status() == statusUnknown {
		defer release()
		c.mu.Lock()
		defer c.mu.Unlock()
		return nil, nil, c.refuse("change")
	}
	return c, release, nil
}

// holdAny is hold for containers whose records can't be read too.
func (s *Service) holdAny(ctx context.Context, ref string) (c *container, release func(), err error) {
	c, err = s.find(ref)
	if err != nil {
		return nil, nil, err
	}
	select {
	case c.life <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	release = func() { <-c.life }
	if c.isRemoved() {
		release()
		return nil, nil, errdefs.As(errdefs.ErrNotFound, fmt.Errorf("no such container: %q", ref))
	}
	return c, release, nil
}

// claimName reserves a name for a container. The error names the container that has it.
func (s *Service) claimName(c *container, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.byName[name]; other != nil && other != c {
		return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf(
			"the name %q is in use by container %s: remove or rename that container, or choose another name", name, short(other.id)))
	}
	s.byName[name] = c
	return nil
}

func (s *Service) releaseName(c *container, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byName[name] == c {
		delete(s.byName, name)
	}
}

func (s *Service) add(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[c.id] = c
}

func (s *Service) forget(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, c.id)
	for name, other := range s.byName {
		if other == c {
			delete(s.byName, name)
		}
	}
}

// all returns the containers, newest first.
func (s *Service) all() []*container {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*container, 0, len(s.byID))
	for _, c := range s.byID {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *container) int { return b.created.Compare(a.created) })
	return list
}

// InUse tells which containers use an image, and whether one of them runs.
func (s *Service) InUse(_ context.Context, imageID string) (list []string, running bool) {
	for _, c := range s.all() {
		message := c.snapshot()
		if message.GetImageId() == imageID {
			list = append(list, c.id)
			running = running || isActive(message.GetState().GetStatus())
		}
	}
	return list, running
}

// Announce tells subscribers of what a client does with a container that changes nothing.
func (s *Service) Announce(ref, action string) {
	if c, err := s.find(ref); err == nil {
		s.publish(c, action)
	}
}

// publish tells subscribers what happened to a container. Details are pairs of a key and a value.
func (s *Service) publish(c *container, action string, details ...string) {
	message := c.snapshot()
	attributes := map[string]string{}
	for key, value := range message.GetSpec().GetLabels() {
		attributes[key] = value
	}
	attributes["name"], attributes["image"] = message.GetName(), message.GetImage()
	for i := 0; i+1 < len(details); i += 2 {
		attributes[details[i]] = details[i+1]
	}
	s.cfg.Events.Publish(&berthv1.Event{Type: "container", Action: action, Id: c.id, Attributes: attributes})
}

const shortID = 12

func short(id string) string { return id[:min(len(id), shortID)] }

// ignoreNotFound is for undoing: what is not there needs no removing.
func ignoreNotFound(err error) error {
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	return err
}
