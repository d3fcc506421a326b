package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/events"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// runningContainer returns a service with one container that has a process, as far as the records go.
func runningContainer(t *testing.T) (*Service, *container, *run) {
	t.Helper()
	s, err := New(Config{Root: t.TempDir(), State: t.TempDir(), Events: events.NewBroker(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c := s.newContainer(&berthv1.Container{Id: strings.Repeat("ab", 32), Name: "web", State: &berthv1.ContainerState{Status: statusRunning}})
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c.current = newRun(nil, nil)
	s.add(c)
	return s, c, c.current
}

// The answer of a shim to pause may come after word of the process's end.
func TestContainerThatEndsIsNotPausedAfterwards(t *testing.T) {
	s, c, current := runningContainer(t)
	pause := func(m *berthv1.Container) { m.State.Status = statusPaused }
	s.record(c, stepCleanUp, func(*berthv1.Container) {})
	if s.recordActive(c, current, pause) || c.status() != statusRunning || !c.isEnding() {
		t.Errorf("a container that is ending is %v, step %q", c.status(), c.step)
	}
	s.record(c, stepNone, func(m *berthv1.Container) { m.State.Status = statusExited })
	c.current = nil
	if s.recordActive(c, current, pause) || c.status() != statusExited {
		t.Errorf("a container that has ended is %v", c.status())
	}
	c.current = newRun(nil, nil)
	if s.recordActive(c, current, pause) || !s.recordActive(c, c.current, pause) {
		t.Error("the pause of one run is taken for that of another")
	}
}

// A container whose clean-up takes too long is not one that runs.
func TestStartWhileTheLastRunIsCleanedUp(t *testing.T) {
	s, c, _ := runningContainer(t)
	s.record(c, stepCleanUp, func(*berthv1.Container) {})
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the patience is over
	if pid, err := s.startHeld(ctx, c, byClient, nil); !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "web") {
		t.Errorf("got process %d, %v", pid, err)
	}
}

// A client may remove a container before the daemon gets to the removal that an earlier one began.
func TestRemovalIsNotFinishedTwice(t *testing.T) {
	s, c, _ := runningContainer(t)
	s.forget(c)
	c.markRemoved()
	s.finishRemoval(t.Context(), c)
	if c.step != stepNone || len(c.life) > 0 {
		t.Errorf("the container that is gone is in step %q", c.step)
	}
}

func TestEndedExecsAreForgotten(t *testing.T) {
	_, c, _ := runningContainer(t)
	c.execs["runs"] = &execution{id: "runs"}
	for i := range keptExecs + 10 {
		e := &execution{id: fmt.Sprint(i)}
		c.execs[e.id] = e
		c.endExec(e)
		e.ended = time.Unix(int64(i), 0) // in this order, whatever the clock's resolution
	}
	if len(c.execs) != keptExecs+1 || c.execs["runs"] == nil || c.execs["0"] != nil || c.execs[fmt.Sprint(keptExecs+9)] == nil {
		t.Errorf("%d are kept", len(c.execs))
	}
}

func TestHostNames(t *testing.T) {
	for _, name := range []string{"", "web", "my_host-1.example.org", strings.Repeat("a", 64)} {
		if err := checkHostName("host", name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"a b", "a\nb", "a/b", "ä", strings.Repeat("a", 65)} {
		if err := checkHostName("host", name); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
