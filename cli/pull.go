package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/credentials"
	"github.com/berthd/berth/cli/format"
	"github.com/berthd/berth/cli/progress"
	"github.com/berthd/berth/cli/spec"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newPull(a *app) *cobra.Command {
	var quiet bool
	var platform string
	request := &berthv1.PullImageRequest{}
	cmd := &cobra.Command{
		Use:               "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short:             "Fetch an image from a registry",
		Args:              exactly(1),
		ValidArgsFunction: a.completeImages(1),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Print the image's name only")
	cmd.Flags().StringVar(&platform, "platform", "", "Platform to take: os/arch[/variant]")
	cmd.Flags().BoolVarP(&request.AllTags, "all-tags", "a", false, "")
	hideTransferFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request.Reference = args[0]
		var err error
		if request.Platform, err = spec.ParsePlatform(platform); err != nil {
			return err
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		said, show := io.Discard, io.Discard
		if !quiet {
			said, show = a.out, a.err
		}
		if !request.GetAllTags() {
			sayDefaultTag(said, request.GetReference())
		}
		result, err := a.pull(cmd.Context(), conn, said, show, request)
		if err != nil {
			return err
		}
		news := "Status: Downloaded newer image for "
		if !result.GetUpdated() {
			news = "Status: Image is up to date for "
		}
		fmt.Fprintf(said, "Digest: %s\n%s%s\n", result.GetDigest(), news, format.Name(result.GetReference()))
		fmt.Fprintln(a.out, result.GetReference())
		return nil
	}
	return cmd
}

// hideTransferFlags adds docker's flag for signatures of a kind that it has given up, which changes nothing, and keeps
// out of the help what berthd refuses by its name.
func hideTransferFlags(cmd *cobra.Command) {
	cmd.Flags().Bool("disable-content-trust", true, "")
	for _, name := range []string{"disable-content-trust", "all-tags"} {
		_ = cmd.Flags().MarkHidden(name)
	}
}

// sayDefaultTag says which tag is meant where none was given.
func sayDefaultTag(said io.Writer, reference string) {
	if _, tag, digest := format.SplitName(reference); tag == "" && digest == "" {
		fmt.Fprintln(said, "Using default tag: latest")
	}
}

// pull fetches an image, says what it does as docker does, and shows how it goes on.
func (a *app) pull(ctx context.Context, conn *client.Client, said, show io.Writer, request *berthv1.PullImageRequest) (*berthv1.PullResult, error) {
	request.Auth = a.authFor(ctx, request.GetReference())
	stream, err := conn.Images.PullImage(ctx, request)
	if err != nil {
		return nil, err
	}
	display := newDisplay(show)
	defer display.Close()
	var result *berthv1.PullResult
	for begun := false; ; begun = true {
		message, err := stream.Recv()
		if err == nil && !begun { // the registry knows the image
			sayPulling(said, request.GetReference())
		}
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

func sayPulling(said io.Writer, reference string) {
	repository, tag, digest := format.SplitName(reference)
	_, path, _ := strings.Cut(fullName(repository), "/")
	fmt.Fprintf(said, "%s: Pulling from %s\n", cmp.Or(digest, tag, "latest"), path)
}

// fullName is a repository with what Docker's rules add to it.
func fullName(repository string) string {
	switch {
	case credentials.Domain(repository+"/") != "docker.io" || strings.HasPrefix(repository, "docker.io/"):
		return repository
	case strings.Contains(repository, "/"):
		return "docker.io/" + repository
	}
	return "docker.io/library/" + repository
}

func newDisplay(show io.Writer) *progress.Display {
	if show == io.Discard {
		return &progress.Display{}
	}
	return progress.New(show)
}
