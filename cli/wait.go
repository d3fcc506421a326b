package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newWait(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "wait CONTAINER [CONTAINER...]",
		Short:             "Wait until containers have exited, and print their exit statuses",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeContainers(0, running),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.collect(cmd.Context(), names, parallelCalls, func(conn *client.Client, name string) (string, error) {
				answer, err := conn.Containers.WaitContainer(cmd.Context(), &berthv1.WaitContainerRequest{Container: name})
				return strconv.Itoa(int(answer.GetExitCode())), err
			})
		},
	}
}
