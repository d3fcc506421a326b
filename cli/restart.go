package main

import (
	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newRestart(a *app) *cobra.Command {
	var flags stopFlags
	cmd := &cobra.Command{
		Use:               "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Stop containers and start them again",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeContainers(0, anyState),
	}
	flags.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return a.each(cmd.Context(), names, func(conn *client.Client, name string) error {
			_, err := conn.Containers.RestartContainer(cmd.Context(),
				&berthv1.RestartContainerRequest{Container: name, Signal: flags.signal, Timeout: flags.timeout()})
			return err
		})
	}
	return cmd
}
