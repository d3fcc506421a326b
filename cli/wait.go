package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newWait(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "wait CONTAINER [CONTAINER...]",
		Short:             "Wait until containers have exited, and print their exit statuses",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeContainers(0, running),
		RunE: func(cmd *cobra.Command, names []string) error {
			conn, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			var failed []error
			for _, name := range names {
				answer, err := conn.Containers.WaitContainer(cmd.Context(), &berthv1.WaitContainerRequest{Container: name})
				if err != nil {
					failed = append(failed, err)
					continue
				}
				fmt.Fprintln(a.out, answer.GetExitCode())
			}
			return errors.Join(failed...)
		},
	}
}
