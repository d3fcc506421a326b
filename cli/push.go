package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/format"
	"github.com/berthd/berth/cli/spec"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newPush(a *app) *cobra.Command {
	var quiet bool
	var platform string
	request := &berthv1.PushImageRequest{}
	cmd := &cobra.Command{
		Use:               "push [OPTIONS] NAME[:TAG]",
		Short:             "Send an image to its registry",
		Args:              exactly(1),
		ValidArgsFunction: a.completeImages(1),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Print the image's name only")
	cmd.Flags().StringVar(&platform, "platform", "", "")
	cmd.Flags().BoolVarP(&request.AllTags, "all-tags", "a", false, "")
	hideTransferFlags(cmd)
	_ = cmd.Flags().MarkHidden("platform")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request.Reference = args[0]
		var err error
		if request.Platform, err = spec.ParsePlatform(platform); err != nil {
			return err
		}
		return a.runPush(cmd, request, quiet)
	}
	return cmd
}

func (a *app) runPush(cmd *cobra.Command, request *berthv1.PushImageRequest, quiet bool) error {
	conn, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	request.Auth = a.authFor(cmd.Context(), request.GetReference())
	stream, err := conn.Images.PushImage(cmd.Context(), request)
	if err != nil {
		return err
	}
	said, show := io.Discard, io.Discard
	if !quiet {
		said, show = a.out, a.err
	}
	repository, tag, _ := format.SplitName(request.GetReference())
	if !request.GetAllTags() {
		sayDefaultTag(said, request.GetReference())
	}
	fmt.Fprintf(said, "The push refers to repository [%s]\n", fullName(repository))
	display := newDisplay(show)
	defer display.Close()
	var result *berthv1.PushResult
	for {
		message, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && result == nil:
			return fmt.Errorf("cannot push image %q: berthd ended the push without a result", request.GetReference())
		case errors.Is(err, io.EOF) && quiet:
			fmt.Fprintln(a.out, result.GetReference())
			return nil
		case errors.Is(err, io.EOF):
			fmt.Fprintf(a.out, "%s: digest: %s size: %d\n", cmp.Or(tag, "latest"), result.GetDigest(), result.GetSize())
			return nil
		case err != nil:
			return err
		case message.GetResult() != nil:
			result = message.GetResult()
		default:
			display.Update(message.GetProgress())
		}
	}
}
