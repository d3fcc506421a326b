package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/spec"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newUpdate(a *app) *cobra.Command {
	var flags spec.UpdateFlags
	cmd := &cobra.Command{
		Use:               "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Change the limits of containers, at once if they run",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeContainers(0, anyState),
	}
	flags.Register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		resources, restart, err := flags.Changes(cmd.Flags())
		if err != nil {
			return err
		}
		return a.each(cmd.Context(), names, func(conn *client.Client, name string) error {
			answer, err := conn.Containers.UpdateContainer(cmd.Context(),
				&berthv1.UpdateContainerRequest{Container: name, Resources: resources, Restart: restart})
			for _, warning := range answer.GetWarnings() {
				fmt.Fprintf(a.err, "warning: %s\n", warning)
			}
			return err
		})
	}
	return cmd
}
