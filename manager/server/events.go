package server

import (
	"github.com/berthd/berth/manager/events"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Events answers EventsService.
type Events struct {
	berthv1.UnimplementedEventsServiceServer
	broker *events.Broker
}

// NewEvents makes the service on what passes events on.
func NewEvents(broker *events.Broker) *Events { return &Events{broker: broker} }

// SubscribeEvents sends what happened and what happens.
func (s *Events) SubscribeEvents(r *berthv1.SubscribeEventsRequest, stream berthv1.EventsService_SubscribeEventsServer) error {
	query := events.Query{Since: asTime(r.GetSince()), Until: asTime(r.GetUntil()), Filters: r.GetFilters()}
	query.Begun = func() error { return stream.SendHeader(nil) } // a client that waits for it misses nothing
	return s.broker.Subscribe(stream.Context(), query, func(event *berthv1.Event) error {
		return stream.Send(&berthv1.SubscribeEventsResponse{Event: event})
	})
}
