package networks

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/berthd/berth/cni-plugins/inprocess"
)

// Another program that changes rules all the time does not keep containers from getting theirs back.
func TestSettleEndsWhileChangesGoOn(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*settleLimit)
	defer cancel()
	changes := make(chan inprocess.Change, 1000)
	ticker := time.NewTicker(settleTime / 20)
	defer ticker.Stop()
	go func() {
		for ctx.Err() == nil {
			select {
			case <-ticker.C:
				changes <- inprocess.Change{Kind: inprocess.ChangedRules}
			case <-ctx.Done():
			}
		}
	}()
	attachments, passages := false, false
	(&Service{}).settle(ctx, changes, &attachments, &passages)
	if ctx.Err() != nil || !attachments {
		t.Errorf("it waits for calm for ever: %v, attachments %v", ctx.Err(), attachments)
	}
}

// A panic keeps what others do to the network from being noticed for a while, and not for ever; berthd goes on.
func TestWatchSurvivesAPanic(t *testing.T) {
	s := &Service{cfg: Config{Logger: slog.New(slog.DiscardHandler)}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.persist(ctx, func() { cancel(); panic("a fault") })
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it goes on after its end")
	}
}
