package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/format"
	"github.com/berthd/berth/cli/inspect"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// finder looks for an object of one kind and returns the document that is printed.
type finder struct {
	kind string
	find func(ctx context.Context, conn *client.Client, name string) (any, error)
}

// finders are in the order in which inspect looks for a name.
func finders(size bool) []finder {
	return []finder{
		{"container", func(ctx context.Context, conn *client.Client, name string) (any, error) {
			answer, err := conn.Containers.InspectContainer(ctx, &berthv1.InspectContainerRequest{Container: name, Size: size})
			if err != nil {
				return nil, err
			}
			return inspect.NewContainer(answer.GetContainer()), nil
		}},
		{"image", func(ctx context.Context, conn *client.Client, name string) (any, error) {
			answer, err := conn.Images.InspectImage(ctx, &berthv1.InspectImageRequest{Image: name})
			if err != nil {
				return nil, err
			}
			return inspect.NewImage(answer.GetImage()), nil
		}},
		{"network", func(ctx context.Context, conn *client.Client, name string) (any, error) {
			answer, err := conn.Networks.InspectNetwork(ctx, &berthv1.InspectNetworkRequest{Network: name})
			if err != nil {
				return nil, err
			}
			names, err := containerNames(ctx, conn, answer.GetNetwork())
			return inspect.NewNetwork(answer.GetNetwork(), names), err
		}},
		{"volume", func(ctx context.Context, conn *client.Client, name string) (any, error) {
			answer, err := conn.Volumes.InspectVolume(ctx, &berthv1.InspectVolumeRequest{Name: name})
			if err != nil {
				return nil, err
			}
			return inspect.NewVolume(answer.GetVolume()), nil
		}},
	}
}

// containerNames returns the names of the containers in a network, by ID.
func containerNames(ctx context.Context, conn *client.Client, network *berthv1.Network) (map[string]string, error) {
	if len(network.GetEndpoints()) == 0 {
		return nil, nil
	}
	answer, err := conn.Containers.ListContainers(ctx, &berthv1.ListContainersRequest{
		Filters: []*berthv1.Filter{{Key: "network", Values: []string{network.GetId()}}},
	})
	names := map[string]string{}
	for _, container := range answer.GetContainers() {
		names[container.GetId()] = container.GetName()
	}
	return names, err
}

// newInspect returns the command of one kind of objects, or with an empty kind the one that looks for any.
func newInspect(a *app, kind string) *cobra.Command {
	var layout string
	var size bool
	of := map[string]string{
		"": "containers, images, networks or volumes", "container": "containers", "image": "images", "network": "networks", "volume": "volumes",
	}[kind]
	cmd := &cobra.Command{
		Use:     "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short:   "Show details of " + of,
		Example: "  berth inspect --format '{{.State.ExitCode}}' web",
		Args:    atLeast(1),
	}
	switch kind {
	case "", "container":
		cmd.ValidArgsFunction = a.completeContainers(0, anyState)
		cmd.Flags().BoolVarP(&size, "size", "s", false, "Show how much a container has written")
	case "network":
		cmd.ValidArgsFunction = a.completeNames(0, networkList)
	case "volume":
		cmd.ValidArgsFunction = a.completeNames(0, volumeList)
	case "image":
		cmd.ValidArgsFunction = a.completeImages(0)
	}
	cmd.Flags().StringVarP(&layout, "format", "f", "", "json, or a Go template")
	if kind == "" {
		cmd.Flags().StringVar(&kind, "type", "", "Look for this kind only: container, image, network or volume")
	}
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		kinds := finders(size)
		if kind != "" {
			kinds = slices.DeleteFunc(kinds, func(f finder) bool { return f.kind != kind })
		}
		if len(kinds) == 0 {
			return fmt.Errorf("invalid value %q for --type: want container, image, network or volume", kind)
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		documents, err := findAll(cmd.Context(), conn, kinds, names)
		return errors.Join(a.printDocuments(layout, documents), err)
	}
	return cmd
}

// findAll returns the documents of all that was found, and an error for each name that was not.
func findAll(ctx context.Context, conn *client.Client, kinds []finder, names []string) ([]any, error) {
	documents := []any{}
	var failed []error
	for _, name := range names {
		document, err := findOne(ctx, conn, kinds, name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		documents = append(documents, document)
	}
	return documents, errors.Join(failed...)
}

func findOne(ctx context.Context, conn *client.Client, kinds []finder, name string) (any, error) {
	for _, kind := range kinds {
		document, err := kind.find(ctx, conn, name)
		switch {
		case err == nil:
			return document, nil
		case len(kinds) == 1:
			return nil, err
		// A name that one kind can't have is not an error here: it may be that of another kind.
		case !client.IsNotFound(err) && !client.IsInvalid(err) && !client.IsUnimplemented(err):
			return nil, err
		}
	}
	return nil, fmt.Errorf("no container, image, network or volume is called %q", name)
}

func (a *app) printDocuments(layout string, documents []any) error {
	if layout == "" {
		return format.JSON(a.out, documents)
	}
	for _, document := range documents {
		if err := format.Object(a.out, layout, document); err != nil {
			return err
		}
	}
	return nil
}
