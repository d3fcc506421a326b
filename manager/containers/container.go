package containers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/records"
	"github.com/berthd/berth/manager/shims"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Short names for the states of a container.
const (
	statusCreated    = berthv1.ContainerStatus_CONTAINER_STATUS_CREATED
	statusRunning    = berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING
	statusPaused     = berthv1.ContainerStatus_CONTAINER_STATUS_PAUSED
	statusRestarting = berthv1.ContainerStatus_CONTAINER_STATUS_RESTARTING
	statusRemoving   = berthv1.ContainerStatus_CONTAINER_STATUS_REMOVING
	statusExited     = berthv1.ContainerStatus_CONTAINER_STATUS_EXITED
	statusDead       = berthv1.ContainerStatus_CONTAINER_STATUS_DEAD
	// statusUnknown is that of a container whose records can't be read: it is left alone until it is removed by force.
	statusUnknown = berthv1.ContainerStatus_CONTAINER_STATUS_UNSPECIFIED
)

type status = berthv1.ContainerStatus

// isActive tells whether a container in this state has a process.
func isActive(s status) bool { return s == statusRunning || s == statusPaused }

// container is one container. Its fields above mu never change.
type container struct {
	id          string
	created     time.Time
	dir, bundle string
	files       records.Dir
	// life is held by whoever changes the container's life: start, stop, remove and the like.
	life chan struct{}

	mu      sync.Mutex
	message *berthv1.Container
	image   fromImage
	step    step
	current *run // nil unless a shim has the container
	clients clients
	execs   map[string]*execution
	history history
	changed chan struct{} // closed and made anew at each change
}

// fromImage is what the image says, where the client has not said otherwise.
type fromImage struct {
	stopSignal     string
	parentSnapshot string // holds the image's layers
}

// history is what is known of a container beside its message: for its restart policy, for clients that wait, for its removal
// and for its records.
type history struct {
	exits       int  // since the daemon has started
	removed     bool // it is gone
	stopped     bool // by a client: the restart policy has no say
	backoff     time.Duration
	noRemove    bool  // the exit belongs to a restart or to a removal: --rm does not apply
	withVolumes bool  // the removal under way takes its anonymous volumes along
	spared      bool  // the state is in the spare record, because the disk had no room for it
	returning   bool  // from an earlier berthd
	unreadable  error // why its records can't be read
}

// run is a container's process, from its start until all that surrounded it is gone.
type run struct {
	mu   sync.Mutex
	link *shims.Task // replaced if the connection breaks
	done chan struct{}
	code int32    // set before done is closed
	env  []string // of process 1, for what is executed beside it
}

func newRun(task *shims.Task, env []string) *run {
	return &run{link: task, done: make(chan struct{}), env: env}
}

// task is the connection to the run's shim.
func (r *run) task() *shims.Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.link
}

// reconnect replaces a connection that broke, unless another goroutine has done so.
func (r *run) reconnect(broken *shims.Task, connect func() (*shims.Task, error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != broken {
		return nil
	}
	again, err := connect()
	if err != nil {
		return err
	}
	_ = broken.Close()
	r.link = again
	return nil
}

// snapshot returns a copy of all that is known.
func (c *container) snapshot() *berthv1.Container {
	c.mu.Lock()
	defer c.mu.Unlock()
	return proto.CloneOf(c.message)
}

func (c *container) status() status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.message.GetState().GetStatus()
}

// isEnding tells whether the container's process has exited and what surrounded it is being taken away.
func (c *container) isEnding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current != nil && c.step == stepCleanUp
}

func (c *container) isRemoved() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.history.removed
}

func (c *container) markRemoved() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history.removed = true
	c.announce()
}

// running returns the current run, or an error of class FailedPrecondition that says what keeps the container from verb.
func (c *container) running(verb string) (*run, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil || !isActive(c.message.GetState().GetStatus()) {
		return nil, c.refuse(verb)
	}
	return c.current, nil
}

// refuse says why a container can't do something now. The caller holds c.mu.
func (c *container) refuse(verb string) error {
	state := map[status]string{
		statusCreated: "has not been started", statusRunning: "is running", statusPaused: "is paused", statusRestarting: "is restarting",
		statusRemoving: "is being removed", statusExited: "is not running", statusDead: "is half removed: remove it again",
		statusUnknown: "can't be read by this berthd",
	}[c.message.GetState().GetStatus()]
	err := fmt.Errorf("cannot %s container %q: it %s", verb, c.message.GetName(), state)
	if c.history.unreadable != nil {
		err = fmt.Errorf("%w (%w); remove it with force, or start the berthd that wrote it", err, c.history.unreadable)
	}
	return errdefs.As(errdefs.ErrFailedPrecondition, err)
}

// transition writes down a change of the state, and tells those who wait. If it can't be written, it is not made.
func (c *container) transition(to step, change func(*berthv1.Container)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	previous, previousStep := c.message, c.step
	c.message, c.step = proto.CloneOf(previous), to
	if change != nil {
		change(c.message)
	}
	if err := c.saveState(); err != nil {
		c.message, c.step = previous, previousStep
		return err
	}
	c.announce()
	return nil
}

// record is transition for what has happened already, or must not depend on a disk: it holds even if it can't be written down.
func (s *Service) record(c *container, to step, change func(*berthv1.Container)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.recordLocked(c, to, change)
}

// recordActive is record for what a client did to a run. It does nothing, and says so, if the run has ended meanwhile: a container
// without a process must not become one that is paused.
func (s *Service) recordActive(c *container, current *run, change func(*berthv1.Container)) (recorded bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != current || c.step == stepCleanUp {
		return false
	}
	s.recordLocked(c, stepNone, change)
	return true
}

// recordLocked is record for a caller that holds c.mu.
func (s *Service) recordLocked(c *container, to step, change func(*berthv1.Container)) {
	c.step = to
	change(c.message)
	if err := c.saveState(); err != nil {
		s.cfg.Logger.Error("cannot write down the state of a container", "container", c.id, "error", err)
	}
	c.announce()
}

// announce wakes everybody who waits for a change. The caller holds c.mu.
func (c *container) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// await blocks until ready, which is called under the lock, holds.
func (c *container) await(ctx context.Context, ready func() bool) error {
	for {
		c.mu.Lock()
		if ready() {
			c.mu.Unlock()
			return nil
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
