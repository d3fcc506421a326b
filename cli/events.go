package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// eventRow is an event as docker's formats name it.
type eventRow struct {
	Type     string
	Action   string
	Actor    eventActor
	TimeNano int64  `json:"timeNano"`
	Time     int64  `json:"time"`
	Status   string `json:"status"`
	ID       string `json:"id"`
}

type eventActor struct {
	ID         string
	Attributes map[string]string
}

func newEvents(a *app) *cobra.Command {
	var since, until, layout string
	var filterTexts []string
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Print what happens, as it happens",
		Args:  exactly(0),
	}
	set := cmd.Flags()
	set.StringVar(&since, "since", "", "From a time on (2013-01-02T13:23:37Z), or for a time (42m)")
	set.StringVar(&until, "until", "", "Up to a time (2013-01-02T13:23:37Z), or up to a while ago (42m)")
	set.StringArrayVarP(&filterTexts, "filter", "f", nil, "Only those that fit, as type=container or event=die")
	set.StringVar(&layout, "format", "", "json, or a Go template")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		request := &berthv1.SubscribeEventsRequest{}
		var err error
		now := time.Now()
		if request.Since, err = parseTime("since", since, now); err != nil {
			return err
		}
		if request.Until, err = parseTime("until", until, now); err != nil {
			return err
		}
		if request.Filters, err = parseFilters(filterTexts); err != nil {
			return err
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		stream, err := conn.Events.SubscribeEvents(cmd.Context(), request)
		if err != nil {
			return err
		}
		for {
			answer, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			}
			if err := a.printEvent(layout, answer.GetEvent()); err != nil {
				return err
			}
		}
	}
	return cmd
}

func (a *app) printEvent(layout string, event *berthv1.Event) error {
	if layout != "" {
		return format.Object(a.out, layout, eventRow{
			Type: event.GetType(), Action: event.GetAction(), Actor: eventActor{event.GetId(), event.GetAttributes()},
			Time: event.GetTime().AsTime().Unix(), TimeNano: event.GetTime().AsTime().UnixNano(), Status: event.GetAction(), ID: event.GetId(),
		})
	}
	var attributes []string
	for name, value := range event.GetAttributes() {
		attributes = append(attributes, name+"="+value)
	}
	slices.Sort(attributes)
	line := fmt.Sprintf("%s %s %s %s", event.GetTime().AsTime().Local().Format(logTime), event.GetType(), event.GetAction(), event.GetId())
	if len(attributes) > 0 {
		line += " (" + strings.Join(attributes, ", ") + ")"
	}
	_, err := fmt.Fprintln(a.out, line)
	return err
}
