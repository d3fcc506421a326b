// Package events tells subscribers what happens to containers, images, networks and volumes, and remembers the last
// events for those who come later.
package events

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/filter"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const (
	remembered = 1024 // events that a later subscriber can still get
	// rememberedBytes is how much memory they may take: each has all labels of its container, or a whole command line.
	rememberedBytes = 16 << 20
	backlog         = 1024 // events that a slow subscriber may be behind
)

// Broker passes events on. It is safe for concurrent use.
type Broker struct {
	mu          sync.Mutex
	past        []*berthv1.Event // oldest first
	size        int              // of those, in bytes
	subscribers map[*subscriber]struct{}
}

type subscriber struct {
	queue chan *berthv1.Event
}

// NewBroker returns a broker without past.
func NewBroker() *Broker {
	return &Broker{subscribers: map[*subscriber]struct{}{}}
}

// Publish tells every subscriber. It never blocks: who is too slow is cut off. The event must not be changed later.
func (b *Broker) Publish(event *berthv1.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if event.GetTime() == nil {
		event.Time = b.now()
	}
	b.past = append(b.past, event)
	b.size += proto.Size(event)
	for len(b.past) > remembered || b.size > rememberedBytes && len(b.past) > 1 { // the last one tells the time
		b.size -= proto.Size(b.past[0])
		b.past[0] = nil
		b.past = b.past[1:]
	}
	for s := range b.subscribers {
		select {
		case s.queue <- event:
		default:
			close(s.queue)
			delete(b.subscribers, s)
		}
	}
}

// now is a time after that of every earlier event, so that a subscriber which goes on from the time of the last event
// that it saw misses none. The caller holds b.mu.
func (b *Broker) now() *timestamppb.Timestamp {
	now := time.Now()
	if len(b.past) > 0 {
		if last := b.past[len(b.past)-1].GetTime().AsTime(); !now.After(last) {
			now = last.Add(time.Nanosecond)
		}
	}
	return timestamppb.New(now)
}

// Query says what a subscriber wants.
type Query struct {
	Since, Until time.Time // zero: from now on, for ever
	Filters      []*berthv1.Filter
	// Begun is called as soon as nothing is missed any more.
	Begun func() error
}

// Subscribe calls send with each event that fits the query, past ones first, until the time that the query names, or
// ctx ends, or send fails.
func (b *Broker) Subscribe(ctx context.Context, query Query, send func(*berthv1.Event) error) error {
	fits, err := filter.Parse("events", query.Filters, keys())
	if err != nil {
		return err
	}
	sendMatching := func(event *berthv1.Event) error {
		if !fits(event) {
			return nil
		}
		return send(event)
	}
	var end <-chan time.Time
	if !query.Until.IsZero() {
		timer := time.NewTimer(time.Until(query.Until))
		defer timer.Stop()
		end = timer.C
	}
	past, s := b.subscribe(query.Since)
	defer b.unsubscribe(s)
	if query.Begun != nil {
		if err := query.Begun(); err != nil {
			return err
		}
	}
	for _, event := range past {
		if !query.Until.IsZero() && event.GetTime().AsTime().After(query.Until) {
			return nil
		}
		if err := sendMatching(event); err != nil {
			return err
		}
	}
	for {
		select {
		case event, ok := <-s.queue:
			if !ok {
				return errdefs.As(errdefs.ErrResourceExhausted, fmt.Errorf("cannot keep up: %d events wait to be read", backlog))
			}
			if err := sendMatching(event); err != nil {
				return err
			}
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *Broker) subscribe(since time.Time) ([]*berthv1.Event, *subscriber) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var past []*berthv1.Event
	if !since.IsZero() {
		for _, event := range b.past {
			if !event.GetTime().AsTime().Before(since) {
				past = append(past, event)
			}
		}
	}
	s := &subscriber{queue: make(chan *berthv1.Event, backlog)}
	b.subscribers[s] = struct{}{}
	return past, s
}

func (b *Broker) unsubscribe(s *subscriber) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subscribers, s)
}

// keys are the filters of events.
func keys() map[string]filter.Key[*berthv1.Event] {
	type event = *berthv1.Event
	all := map[string]filter.Key[event]{
		"type":  filter.Equals(event.GetType),
		"scope": filter.Equals(func(event) string { return "local" }),
		"label": filter.Label(event.GetAttributes),
		"event": func(value string) (filter.Condition[event], error) {
			return func(e event) bool {
				// "exec_start: sh" is an exec_start, as docker has it.
				action, _, _ := strings.Cut(e.GetAction(), ":")
				return e.GetAction() == value || action == value
			}, nil
		},
	}
	for _, kind := range []string{"container", "image", "network", "volume"} {
		all[kind] = func(value string) (filter.Condition[event], error) {
			return func(e event) bool { return isAbout(e, kind, value) }, nil
		}
	}
	return all
}

// isAbout tells whether an event is one of the object, or of a container that was made from the image.
func isAbout(event *berthv1.Event, kind, ref string) bool {
	attributes := event.GetAttributes()
	if kind == "image" {
		name := attributes["image"]
		if event.GetType() == kind {
			name = attributes["name"]
		}
		return name == ref || name != "" && untagged(name) == ref || event.GetType() == kind && ref != "" && event.GetId() == ref
	}
	return event.GetType() == kind && (attributes["name"] == ref || ref != "" && strings.HasPrefix(event.GetId(), ref))
}

// untagged is an image's name without its tag.
func untagged(name string) string {
	if colon := strings.LastIndex(name, ":"); colon > strings.LastIndex(name, "/") {
		return name[:colon]
	}
	return name
}
