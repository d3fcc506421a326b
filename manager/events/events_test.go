package events

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func event(action, id string) *berthv1.Event {
	return &berthv1.Event{Type: "container", Action: action, Id: id, Attributes: map[string]string{"name": "n" + id, "image": "busybox", "tier": "web"}}
}

// replay returns the actions of past events that fit the filters.
func replay(t *testing.T, b *Broker, filters ...*berthv1.Filter) []string {
	t.Helper()
	var got []string
	query := Query{Since: time.Unix(1, 0), Until: time.Now(), Filters: filters}
	if err := b.Subscribe(t.Context(), query, func(e *berthv1.Event) error { got = append(got, e.GetAction()); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestReplayAndFilters(t *testing.T) {
	b := NewBroker()
	b.Publish(event("create", "1"))
	b.Publish(event("start", "2"))
	b.Publish(event("exec_start: sh -c x", "2"))
	for _, c := range []struct {
		key, value string
		want       int
	}{
		{"type", "container", 3},
		{"type", "image", 0},
		{"event", "start", 1},
		{"event", "exec_start", 1},
		{"container", "n2", 2},
		{"container", "1", 1},
		{"image", "busybox", 3},
		{"label", "tier", 3},
		{"label", "tier=web", 3},
		{"label", "tier=db", 0},
	} {
		if got := replay(t, b, &berthv1.Filter{Key: c.key, Values: []string{c.value}}); len(got) != c.want {
			t.Errorf("%s=%s: %v, want %d events", c.key, c.value, got, c.want)
		}
	}
	err := b.Subscribe(t.Context(), Query{Filters: []*berthv1.Filter{{Key: "colour"}}}, nil)
	if !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("an unknown filter: %v", err)
	}
}

// A few events with a megabyte of labels each must not fill the memory.
func TestLargeEventsAreForgottenEarlier(t *testing.T) {
	b := NewBroker()
	for range 40 {
		large := event("create", "1")
		large.Attributes["label"] = strings.Repeat("x", 1<<20)
		b.Publish(large)
	}
	b.Publish(event("start", "1"))
	if got := replay(t, b); len(got) != 16 || got[15] != "start" {
		t.Errorf("%d events are remembered: %v", len(got), got)
	}
}

func TestTheOldestAreForgotten(t *testing.T) {
	b := NewBroker()
	for range remembered + 10 {
		b.Publish(event("x", "1"))
	}
	if got := replay(t, b); len(got) != remembered {
		t.Errorf("%d events are remembered, want %d", len(got), remembered)
	}
}

func TestSubscribersGetWhatComes(t *testing.T) {
	b := NewBroker()
	ctx, cancel := context.WithCancel(t.Context())
	begun := func() error { b.Publish(event("now", "1")); return nil }
	err := b.Subscribe(ctx, Query{Begun: begun}, func(e *berthv1.Event) error {
		if e.GetAction() != "now" || e.GetTime() == nil {
			t.Errorf("got %v", e)
		}
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestWhoIsTooSlowIsCutOff(t *testing.T) {
	b := NewBroker()
	begun := func() error {
		for range backlog + 1 {
			b.Publish(event("x", "1"))
		}
		return nil
	}
	err := b.Subscribe(t.Context(), Query{Begun: begun}, func(*berthv1.Event) error { return nil })
	if !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("got %v", err)
	}
}
