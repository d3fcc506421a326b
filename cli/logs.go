package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// logTime has as many digits for every time, so that lines stay aligned.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func newLogs(a *app) *cobra.Command {
	var follow, timestamps, details bool
	var since, until, tail string
	cmd := &cobra.Command{
		Use:               "logs [OPTIONS] CONTAINER",
		Short:             "Print what a container has written",
		Args:              exactly(1),
		ValidArgsFunction: a.completeContainers(1, anyState),
	}
	set := cmd.Flags()
	set.BoolVarP(&follow, "follow", "f", false, "Go on with what comes, until the container exits")
	set.BoolVarP(&timestamps, "timestamps", "t", false, "Print the time before each line")
	set.BoolVar(&details, "details", false, "Print extra attributes of lines (berth's log drivers add none)")
	set.StringVar(&since, "since", "", "From a time on (2013-01-02T13:23:37Z), or for a time (42m)")
	set.StringVar(&until, "until", "", "Up to a time (2013-01-02T13:23:37Z), or up to a while ago (42m)")
	set.StringVarP(&tail, "tail", "n", "all", "How many lines from the end")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		request := &berthv1.StreamLogsRequest{Container: names[0], Follow: follow, Stdout: true, Stderr: true}
		var err error
		now := time.Now()
		if request.Since, err = parseTime("since", since, now); err != nil {
			return err
		}
		if request.Until, err = parseTime("until", until, now); err != nil {
			return err
		}
		if request.Tail, err = parseTail(tail); err != nil {
			return err
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		stream, err := conn.Containers.StreamLogs(cmd.Context(), request)
		if err != nil {
			return err
		}
		return printLogs(logPrinter{out: a.out, err: a.err, timestamps: timestamps, details: details}, stream.Recv)
	}
	return cmd
}

func printLogs(printer logPrinter, next func() (*berthv1.StreamLogsResponse, error)) error {
	for {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := printer.print(line); err != nil {
			return err
		}
	}
}

// logPrinter writes log lines to the stream that they came from.
type logPrinter struct {
	out, err            io.Writer
	timestamps, details bool
	partOut, partErr    bool // the line before was a part of a longer one
}

func (p *logPrinter) print(line *berthv1.StreamLogsResponse) error {
	to, part := p.out, &p.partOut
	if line.GetStream() == berthv1.Stream_STREAM_STDERR {
		to, part = p.err, &p.partErr
	}
	var text bytes.Buffer
	if !*part {
		if p.timestamps {
			text.WriteString(line.GetTime().AsTime().Format(logTime) + " ")
		}
		if p.details {
			text.WriteByte(' ')
		}
	}
	text.Write(line.GetLine())
	*part = !bytes.HasSuffix(line.GetLine(), []byte("\n"))
	_, err := to.Write(text.Bytes())
	return err
}

func parseTail(text string) (*uint64, error) {
	if text == "all" || text == "" {
		return nil, nil
	}
	count, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return nil, fmt.Errorf("invalid value %q for --tail: want a number of lines, or all", text)
	case count < 0:
		return nil, nil // docker reads it as all
	}
	lines := uint64(count)
	return &lines, nil
}

// parseTime reads a time as docker does: RFC 3339 in its longer and shorter forms, seconds since 1970 with a fraction,
// or a duration before now.
func parseTime(flag, text string, now time.Time) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return timestamppb.New(now.Add(-ago)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, text); err == nil {
			return timestamppb.New(t), nil
		}
	}
	for _, layout := range []string{"2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return timestamppb.New(t), nil
		}
	}
	whole, fraction, _ := strings.Cut(text, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	nanos, fractionErr := strconv.ParseFloat("0."+fraction+"0", 64)
	if err != nil || fractionErr != nil {
		return nil, fmt.Errorf("invalid value %q for --%s: want a time as 2013-01-02T13:23:37Z, or a duration as 42m", text, flag)
	}
	return timestamppb.New(time.Unix(seconds, int64(math.Round(nanos*1e9)))), nil
}
