package main

import (
	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newRemove(a *app) *cobra.Command {
	var force, volumes bool
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Remove containers",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeContainers(0, anyState),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Kill a container that runs; no error for one that does not exist")
	cmd.Flags().BoolVarP(&volumes, "volumes", "v", false, "Remove anonymous volumes too")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return a.eachAtOnce(cmd.Context(), names, func(conn *client.Client, name string) error {
			_, err := conn.Containers.RemoveContainer(cmd.Context(),
				&berthv1.RemoveContainerRequest{Container: name, Force: force, Volumes: volumes})
			return toleratesAbsence(force, err)
		})
	}
	return cmd
}
