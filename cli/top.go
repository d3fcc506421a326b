package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newTop(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "top CONTAINER [ps OPTIONS]",
		Short:             "List a container's processes, as ps(1) does on the host",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeContainers(1, running),
	}
	cmd.Flags().SetInterspersed(false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		answer, err := conn.Containers.TopContainer(cmd.Context(), &berthv1.TopContainerRequest{Container: args[0], PsArgs: args[1:]})
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(a.out, 10, 1, 3, ' ', 0)
		fmt.Fprintln(table, strings.Join(answer.GetTitles(), "\t"))
		for _, process := range answer.GetProcesses() {
			fmt.Fprintln(table, strings.Join(process.GetColumns(), "\t"))
		}
		return table.Flush()
	}
	return cmd
}
