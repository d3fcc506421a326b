package main

import (
	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newPause(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "pause CONTAINER [CONTAINER...]",
		Short:             "Freeze all processes of containers",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeContainers(0, running),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.eachAtOnce(cmd.Context(), names, func(conn *client.Client, name string) error {
				_, err := conn.Containers.PauseContainer(cmd.Context(), &berthv1.PauseContainerRequest{Container: name})
				return err
			})
		},
	}
}

func newUnpause(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "unpause CONTAINER [CONTAINER...]",
		Short:             "Let frozen containers go on",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeContainers(0, running),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.eachAtOnce(cmd.Context(), names, func(conn *client.Client, name string) error {
				_, err := conn.Containers.ResumeContainer(cmd.Context(), &berthv1.ResumeContainerRequest{Container: name})
				return err
			})
		},
	}
}
