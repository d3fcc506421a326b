package main

import (
	"github.com/spf13/cobra"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newRename(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "rename CONTAINER NEW_NAME",
		Short:             "Give a container another name",
		Args:              exactly(2),
		ValidArgsFunction: a.completeContainers(1, anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			_, err = conn.Containers.RenameContainer(cmd.Context(), &berthv1.RenameContainerRequest{Container: args[0], Name: args[1]})
			return err
		},
	}
}
