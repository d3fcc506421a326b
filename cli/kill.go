package main

import (
	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newKill(a *app) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:               "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Send containers a signal",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeContainers(0, running),
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "Signal, by name or number (default SIGKILL)")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return a.eachAtOnce(cmd.Context(), names, func(conn *client.Client, name string) error {
			_, err := conn.Containers.KillContainer(cmd.Context(), &berthv1.KillContainerRequest{Container: name, Signal: signal})
			return err
		})
	}
	return cmd
}
