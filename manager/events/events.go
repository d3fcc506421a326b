// Package events tells subscribers what happens to containers, images, networks and volumes, and remembers the last
// events for those who come later.
package events

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const (
	remembered = 1024 // events that a later subscriber can still get
	backlog    = 1024 // events that a slow subscriber may be behind
)

// Broker passes events on. It is safe for concurrent use.
type Broker struct {
	mu          sync.Mutex
	past        []*berthv1.Event // oldest first
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
	if event.GetTime() == nil {
		event.Time = timestamppb.Now()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.past) == remembered {
		b.past = b.past[1:]
	}
	b.past = append(b.past, event)
	for s := range b.subscribers {
		select {
		case s.queue <- event:
		default:
			close(s.queue)
			delete(b.subscribers, s)
		}
	}
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
	for _, filter := range query.Filters {
		if !knownKey(filter.GetKey()) {
			return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("unknown filter %q for events", filter.GetKey()))
		}
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
		if err := sendMatching(query, event, send); err != nil {
			return err
		}
	}
	for {
		select {
		case event, ok := <-s.queue:
			if !ok {
				return errdefs.As(errdefs.ErrResourceExhausted, fmt.Errorf("cannot keep up: %d events wait to be read", backlog))
			}
			if err := sendMatching(query, event, send); err != nil {
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

func sendMatching(query Query, event *berthv1.Event, send func(*berthv1.Event) error) error {
	for _, filter := range query.Filters {
		if !matches(filter, event) {
			return nil
		}
	}
	return send(event)
}

func knownKey(key string) bool {
	switch key {
	case "type", "event", "container", "image", "network", "volume", "label":
		return true
	}
	return false
}

func matches(filter *berthv1.Filter, event *berthv1.Event) bool {
	for _, value := range filter.GetValues() {
		if matchesValue(filter.GetKey(), value, event) {
			return true
		}
	}
	return len(filter.GetValues()) == 0
}

func matchesValue(key, value string, event *berthv1.Event) bool {
	switch key {
	case "type":
		return event.GetType() == value
	case "event":
		// "exec_start: sh" is an exec_start, as docker has it.
		action, _, _ := strings.Cut(event.GetAction(), ":")
		return event.GetAction() == value || action == value
	case "label":
		name, want, has := strings.Cut(value, "=")
		got, ok := event.GetAttributes()[name]
		return ok && (!has || got == want)
	case "image":
		return event.GetType() == key && matchesObject(value, event) || event.GetAttributes()["image"] == value
	default:
		if event.GetType() == key {
			return matchesObject(value, event)
		}
		return event.GetAttributes()[key] == value
	}
}

func matchesObject(value string, event *berthv1.Event) bool {
	return event.GetAttributes()["name"] == value || value != "" && strings.HasPrefix(event.GetId(), value)
}
