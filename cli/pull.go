package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/format"
	"github.com/berthd/berth/cli/progress"
	"github.com/berthd/berth/cli/spec"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newPull(a *app) *cobra.Command {
	var quiet bool
	var platform string
	cmd := &cobra.Command{
		Use:               "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short:             "Fetch an image from a registry",
		Args:              exactly(1),
		ValidArgsFunction: a.completeImages(1),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Print the image's name only")
	cmd.Flags().StringVar(&platform, "platform", "", "Platform to take: os/arch[/variant]")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := &berthv1.PullImageRequest{Reference: args[0]}
		var err error
		if request.Platform, err = spec.ParsePlatform(platform); err != nil {
			return err
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		show := a.err
		if quiet {
			show = io.Discard
		}
		result, err := a.pull(cmd.Context(), conn, show, request)
		if err != nil {
			return err
		}
		if !quiet {
			news := "Status: Downloaded newer image for "
			if !result.GetUpdated() {
				news = "Status: Image is up to date for "
			}
			fmt.Fprintf(a.out, "Digest: %s\n%s%s\n", result.GetDigest(), news, format.Name(result.GetReference()))
		}
		fmt.Fprintln(a.out, result.GetReference())
		return nil
	}
	return cmd
}

// pull fetches an image and shows how it goes on.
func (a *app) pull(ctx context.Context, conn *client.Client, show io.Writer, request *berthv1.PullImageRequest) (*berthv1.PullResult, error) {
	request.Auth = a.authFor(ctx, request.GetReference())
	stream, err := conn.Images.PullImage(ctx, request)
	if err != nil {
		return nil, err
	}
	display := newDisplay(show)
	defer display.Close()
	var result *berthv1.PullResult
	for {
		message, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && result != nil:
			return result, nil
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("cannot pull image %q: berthd ended the pull without a result", request.GetReference())
		case err != nil:
			return nil, err
		case message.GetResult() != nil:
			result = message.GetResult()
		default:
			display.Update(message.GetProgress())
		}
	}
}

func newDisplay(show io.Writer) *progress.Display {
	if show == io.Discard {
		return &progress.Display{}
	}
	return progress.New(show)
}
