package networks

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/berthd/berth/cni-plugins/inprocess"
	"github.com/berthd/berth/internal/panics"
)

const (
	// settleTime is how long changes are collected: a firewall that reloads makes many.
	settleTime = 200 * time.Millisecond
	// settleLimit is how long at most: a program that changes rules all the time must not keep containers from theirs.
	settleLimit = 2 * time.Second
	// pollTime is how often firewalls are looked at that tell nobody of their changes.
	pollTime = time.Minute
)

// watch is the goroutine that puts right what others do to the host's network: `nft flush ruleset`, a firewall that is reloaded, a
// bridge that is deleted. Containers go on with their addresses and connections.
type watch struct {
	mu      sync.Mutex
	cancel  context.CancelFunc
	running sync.WaitGroup
	warned  map[string]string // by bridge: the last warning, of the goroutine keepRight only
}

func (w *watch) begin(s *Service) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.warned = cancel, map[string]string{}
	changes := make(chan inprocess.Change, 64)
	w.running.Go(func() { s.persist(ctx, func() { s.listen(ctx, changes) }) })
	w.running.Go(func() { s.persist(ctx, func() { s.keepRight(ctx, changes) }) })
}

// persist runs one of the goroutines until ctx ends. After a panic in it, it is run again.
func (s *Service) persist(ctx context.Context, run func()) {
	guarded := func() {
		defer panics.Recover(s.cfg.Logger, "the watch of the host's network", nil)
		run()
	}
	for guarded(); ctx.Err() == nil; guarded() {
		select {
		case <-time.After(pollTime):
		case <-ctx.Done():
			return
		}
	}
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		w.cancel()
		w.running.Wait()
	}
}

func (s *Service) listen(ctx context.Context, changes chan<- inprocess.Change) {
	for ctx.Err() == nil {
		err := s.exec.Watch(ctx, s.cfg.Table, func(c inprocess.Change) {
			select {
			case changes <- c:
			case <-ctx.Done():
			}
		})
		if err == nil {
			continue
		}
		s.cfg.Logger.Error("changes of the host's network are not noticed", "error", err)
		select {
		case <-time.After(pollTime):
		case <-ctx.Done():
		}
	}
}

// keepRight looks after everything once, as nobody listened before, and then after each change.
func (s *Service) keepRight(ctx context.Context, changes <-chan inprocess.Change) {
	ticker := time.NewTicker(pollTime)
	defer ticker.Stop()
	attachments, passages := true, true
	for {
		if attachments {
			s.repairAll(ctx)
		}
		if attachments || passages {
			s.openPassages(ctx)
		}
		attachments, passages = false, false
		select {
		case c := <-changes:
			if s.concern(c, &attachments, &passages); attachments || passages {
				s.settle(ctx, changes, &attachments, &passages)
			}
		case <-ticker.C:
			passages = s.exec.MustPoll()
		case <-ctx.Done():
			return
		}
	}
}

// settle takes further changes until there are none for a while, or settleLimit is over.
func (s *Service) settle(ctx context.Context, changes <-chan inprocess.Change, attachments, passages *bool) {
	limit := time.NewTimer(settleLimit)
	defer limit.Stop()
	for {
		select {
		case c := <-changes:
			s.concern(c, attachments, passages)
		case <-time.After(settleTime):
			return
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (s *Service) concern(c inprocess.Change, attachments, passages *bool) {
	switch c.Kind {
	case inprocess.ChangedRules:
		*attachments = true
	case inprocess.ChangedFirewall:
		*passages = true
	case inprocess.ChangedLink:
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range s.networks {
			if d.Bridge != "" && (c.Name == d.Bridge || c.Name == "") {
				*attachments = true
			}
		}
	}
}

// repairAll puts back what attached containers have lost on the host.
func (s *Service) repairAll(ctx context.Context) {
	s.mu.Lock()
	all := maps.Clone(s.attached)
	s.mu.Unlock()
	if err := s.exec.RenewTable(ctx, s.cfg.Table); err != nil {
		s.cfg.Logger.Error("cannot put the rules of all networks right", "error", err)
	}
	for id := range all {
		if err := s.repair(ctx, id); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Error("cannot put a container's network right", "container", id, "error", err)
		}
	}
}

func (s *Service) repair(ctx context.Context, containerID string) error {
	unlock, err := s.busy.Lock(ctx, containerID)
	if err != nil {
		return err
	}
	defer unlock()
	a := s.attachment(containerID)
	if a == nil || a.assumed {
		return nil
	}
	leave, err := s.enter(a.Endpoints)
	if err != nil {
		return nil //nolint:nilerr // its network goes
	}
	defer leave()
	for _, e := range a.Endpoints {
		list, conf, err := call(containerID, a, e)
		if err == nil {
			err = s.repairs.CheckNetworkList(ctx, list, conf)
		}
		if err != nil {
			return fmt.Errorf("cannot repair the connection to network %q: %w", e.Network, err)
		}
	}
	return nil
}

// openPassages lets the bridges that are in use pass the host's other firewalls.
func (s *Service) openPassages(ctx context.Context) {
	s.mu.Lock()
	used := map[string]bool{}
	for _, a := range s.attached {
		for _, e := range a.Endpoints {
			if d := s.networks[e.Network]; d != nil {
				used[d.Bridge] = true
			}
		}
	}
	s.mu.Unlock()
	for bridge := range used {
		var warning string
		if err := s.exec.OpenPassage(ctx, bridge); err != nil {
			warning = err.Error()
		}
		if warning != "" && warning != s.watch.warned[bridge] {
			s.cfg.Logger.Warn("the host's firewall may drop what containers send and receive", "bridge", bridge, "error", warning)
		}
		s.watch.warned[bridge] = warning
	}
}
