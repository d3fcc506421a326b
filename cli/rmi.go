package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newRmi(a *app) *cobra.Command {
	var force, noPrune bool
	cmd := &cobra.Command{
		Use:               "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short:             "Remove images",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeImages(0),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Remove an image that containers use, or that has several names; no error for one that does not exist")
	cmd.Flags().BoolVar(&noPrune, "no-prune", false, "Keep parents that have no name")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		var failed []error
		for _, name := range names {
			answer, err := conn.Images.RemoveImage(cmd.Context(), &berthv1.RemoveImageRequest{Image: name, Force: force, NoPrune: noPrune})
			if force && client.IsNotFound(err) {
				fmt.Fprintf(a.err, "berth: %v\n", a.explain(err))
			} else if err != nil {
				failed = append(failed, err)
			}
			a.printRemoved(answer.GetUntagged(), answer.GetDeleted())
		}
		return errors.Join(failed...)
	}
	return cmd
}

func (a *app) printRemoved(untagged, deleted []string) {
	for _, name := range untagged {
		fmt.Fprintf(a.out, "Untagged: %s\n", format.Name(name))
	}
	for _, id := range deleted {
		fmt.Fprintf(a.out, "Deleted: %s\n", id)
	}
}
