package main

import (
	"github.com/spf13/cobra"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newTag(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short:             "Give an image a further name",
		Args:              exactly(2),
		ValidArgsFunction: a.completeImages(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			_, err = conn.Images.TagImage(cmd.Context(), &berthv1.TagImageRequest{Source: args[0], Target: args[1]})
			return err
		},
	}
}
