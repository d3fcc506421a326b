package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// which containers a command is about.
type which int

const (
	anyState which = iota
	running
	stopped
)

type completion = func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeContainers offers names of containers for the first count arguments; 0: for all.
func (a *app) completeContainers(count int, state which) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if count > 0 && len(args) >= count {
			return nil, cobra.ShellCompDirectiveDefault
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		answer, err := conn.Containers.ListContainers(cmd.Context(), &berthv1.ListContainersRequest{All: state != running})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []cobra.Completion
		for _, container := range answer.GetContainers() {
			runs := container.GetState().GetStatus() == berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING
			if (state == stopped && runs) || !strings.HasPrefix(container.GetName(), typed) {
				continue
			}
			names = append(names, cobra.CompletionWithDesc(container.GetName(), format.Name(container.GetImage())))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeImages offers names of images for the first count arguments; 0: for all.
func (a *app) completeImages(count int) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if count > 0 && len(args) >= count {
			return nil, cobra.ShellCompDirectiveDefault
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		answer, err := conn.Images.ListImages(cmd.Context(), &berthv1.ListImagesRequest{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []cobra.Completion
		for _, image := range answer.GetImages() {
			for _, tag := range image.GetTags() {
				if name := format.Name(tag); strings.HasPrefix(name, typed) {
					names = append(names, name)
				}
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
