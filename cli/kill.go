package main

import (
	"github.com/spf13/cobra"

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
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		return a.each(names, func(name string) error {
			_, err := conn.Containers.KillContainer(cmd.Context(), &berthv1.KillContainerRequest{Container: name, Signal: signal})
			return err
		})
	}
	return cmd
}
