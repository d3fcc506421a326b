package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/format"
	"github.com/berthd/berth/cli/terminal"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const statsTable = `table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}`

// statsRow is what a container uses, with docker's names of columns.
type statsRow struct {
	BlockIO   string
	CPUPerc   string
	Container string
	ID        string
	MemPerc   string
	MemUsage  string
	Name      string
	NetIO     string
	PIDs      string
}

func statsHeader() statsRow {
	return statsRow{
		BlockIO: "BLOCK I/O", CPUPerc: "CPU %", Container: "CONTAINER", ID: "CONTAINER ID", MemPerc: "MEM %", MemUsage: "MEM USAGE / LIMIT",
		Name: "NAME", NetIO: "NET I/O", PIDs: "PIDS",
	}
}

type statsOptions struct {
	once, whole bool
	format      string
}

func newStats(a *app) *cobra.Command {
	var options statsOptions
	cmd := &cobra.Command{
		Use:               "stats [OPTIONS] [CONTAINER...]",
		Short:             "Tell what running containers use, once a second",
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.completeContainers(0, running),
		RunE:              func(cmd *cobra.Command, names []string) error { return a.runStats(cmd, options, names) },
	}
	cmd.Flags().BoolVar(&options.once, "no-stream", false, "Print once only")
	cmd.Flags().BoolVar(&options.whole, "no-trunc", false, "Print whole IDs")
	cmd.Flags().StringVar(&options.format, "format", "", "table, table TEMPLATE, json, or a Go template")
	return cmd
}

func (a *app) runStats(cmd *cobra.Command, options statsOptions, names []string) error {
	conn, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	screen := statsScreen{out: a.out, options: options}
	if options.once {
		if err := screen.measure(cmd.Context(), conn, names); err != nil {
			return err
		}
		return screen.draw()
	}
	stream, err := conn.Containers.StatsContainers(cmd.Context(), &berthv1.StatsContainersRequest{Containers: names})
	if err != nil {
		return err
	}
	for {
		sample, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return screen.draw()
		}
		if err != nil {
			return err
		}
		if err := screen.add(sample); err != nil {
			return err
		}
	}
}

// measure takes two samples of each container, a second apart: only then is there a share of the processors to tell.
func (s *statsScreen) measure(ctx context.Context, conn *client.Client, names []string) error {
	before, err := sampleOnce(ctx, conn, names)
	if err != nil || len(before) == 0 {
		return err
	}
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.samples, err = sampleOnce(ctx, conn, names); err != nil {
		return err
	}
	for _, sample := range s.samples {
		for _, earlier := range before {
			if earlier.GetContainerId() == sample.GetContainerId() {
				sample.PreviousCpu = earlier.GetCpu()
			}
		}
	}
	return nil
}

func sampleOnce(ctx context.Context, conn *client.Client, names []string) (samples []*berthv1.StatsContainersResponse, err error) {
	stream, err := conn.Containers.StatsContainers(ctx, &berthv1.StatsContainersRequest{Containers: names, OneShot: true})
	if err != nil {
		return nil, err
	}
	for {
		sample, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return samples, nil
		}
		if err != nil {
			return nil, err
		}
		samples = append(samples, sample)
	}
}

// statsScreen shows the last sample of each container.
type statsScreen struct {
	out     io.Writer
	options statsOptions
	samples []*berthv1.StatsContainersResponse
}

// round is how long after its last sample a container has gone: berthd sends one a second.
const round = 1800 * time.Millisecond

// add takes a sample. A second one of the first container begins a new round: the one before is complete and is shown.
func (s *statsScreen) add(sample *berthv1.StatsContainersResponse) error {
	at := slices.IndexFunc(s.samples, func(known *berthv1.StatsContainersResponse) bool {
		return known.GetContainerId() == sample.GetContainerId()
	})
	if at < 0 {
		s.samples = append(s.samples, sample)
		return nil
	}
	if at == 0 {
		if err := s.draw(); err != nil {
			return err
		}
	}
	s.samples[at] = sample
	s.forget(sample.GetReadAt().AsTime())
	return nil
}

// forget drops the containers that no sample has come of for a while.
func (s *statsScreen) forget(now time.Time) {
	s.samples = slices.DeleteFunc(s.samples, func(sample *berthv1.StatsContainersResponse) bool {
		return now.Sub(sample.GetReadAt().AsTime()) >= round
	})
}

func (s *statsScreen) draw() error {
	layout := s.options.format
	if layout == "" || layout == "table" {
		layout = statsTable
	}
	rows := make([]statsRow, 0, len(s.samples))
	for _, sample := range s.samples {
		rows = append(rows, newStatsRow(sample, s.options.whole))
	}
	var picture bytes.Buffer
	if err := format.List(&picture, layout, statsHeader(), rows); err != nil {
		return err
	}
	if terminal.Is(s.out) && !s.options.once {
		_, _ = io.WriteString(s.out, "\x1b[H\x1b[2J") // from the upper left corner of an empty screen
	}
	_, err := picture.WriteTo(s.out)
	return err
}

func newStatsRow(sample *berthv1.StatsContainersResponse, whole bool) statsRow {
	memory := sample.GetMemory()
	var received, sent uint64
	for _, network := range sample.GetNetworks() {
		received += network.GetRxBytes()
		sent += network.GetTxBytes()
	}
	size := func(bytes uint64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }
	share := 0.0
	if memory.GetLimit() > 0 {
		share = 100 * float64(memory.GetUsage()) / float64(memory.GetLimit())
	}
	return statsRow{
		ID: format.ID(sample.GetContainerId(), whole), Container: sample.GetContainerId(), Name: sample.GetName(),
		CPUPerc: fmt.Sprintf("%.2f%%", cpuShare(sample)), MemPerc: fmt.Sprintf("%.2f%%", share),
		MemUsage: units.BytesSize(float64(memory.GetUsage())) + " / " + units.BytesSize(float64(memory.GetLimit())),
		NetIO:    size(received) + " / " + size(sent), BlockIO: size(sample.GetBlockRead()) + " / " + size(sample.GetBlockWritten()),
		PIDs: fmt.Sprint(sample.GetPids()),
	}
}

// cpuShare is how many hundredths of one processor a container used since the sample before.
func cpuShare(sample *berthv1.StatsContainersResponse) float64 {
	now, before := sample.GetCpu(), sample.GetPreviousCpu()
	if before == nil || now.GetSystemUsage() <= before.GetSystemUsage() || now.GetUsage() < before.GetUsage() {
		return 0
	}
	share := float64(now.GetUsage()-before.GetUsage()) / float64(now.GetSystemUsage()-before.GetSystemUsage())
	return 100 * share * float64(now.GetOnlineCpus())
}
