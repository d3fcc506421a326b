package main

import (
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthd/berth/cli/client"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// stopFlags are those of stop and restart.
type stopFlags struct {
	signal  string
	seconds int
	cmd     *cobra.Command
}

func (f *stopFlags) register(cmd *cobra.Command) {
	f.cmd = cmd
	cmd.Flags().StringVarP(&f.signal, "signal", "s", "", "Signal to send first (default the container's)")
	cmd.Flags().IntVarP(&f.seconds, "timeout", "t", 0, "Seconds to wait before killing; -1: for ever (default the container's, 10)")
	cmd.Flags().IntVar(&f.seconds, "time", 0, "Seconds to wait before killing")
	_ = cmd.Flags().MarkHidden("time")
}

// forever is far enough away for a container to stop by itself.
const forever = 100 * 365 * 24 * time.Hour

func (f *stopFlags) timeout() *durationpb.Duration {
	switch {
	case !f.cmd.Flags().Changed("timeout") && !f.cmd.Flags().Changed("time"):
		return nil
	case f.seconds < 0:
		return durationpb.New(forever)
	}
	return durationpb.New(time.Duration(f.seconds) * time.Second)
}

func newStop(a *app) *cobra.Command {
	var flags stopFlags
	cmd := &cobra.Command{
		Use:               "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Stop containers: a signal, and after a while SIGKILL",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeContainers(0, running),
	}
	flags.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return a.eachAtOnce(cmd.Context(), names, func(conn *client.Client, name string) error {
			_, err := conn.Containers.StopContainer(cmd.Context(),
				&berthv1.StopContainerRequest{Container: name, Signal: flags.signal, Timeout: flags.timeout()})
			return err
		})
	}
	return cmd
}
