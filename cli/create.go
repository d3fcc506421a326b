package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/spec"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// createOptions are the flags of create, which run has too.
type createOptions struct {
	spec    spec.Flags
	name    string
	pull    string
	cidfile string
	attach  []string
	quiet   bool
}

func (o *createOptions) register(cmd *cobra.Command) {
	set := cmd.Flags()
	set.SetInterspersed(false)
	set.Bool("help", false, "Help for "+cmd.Name()) // cobra's own would take -h, which is the host name
	set.SortFlags = true
	o.spec.Register(set)
	set.StringVar(&o.name, "name", "", "Name of the container")
	set.StringVar(&o.pull, "pull", "missing", "When to pull the image: missing, always or never")
	set.StringVar(&o.cidfile, "cidfile", "", "Write the container's ID to a file")
	set.StringArrayVarP(&o.attach, "attach", "a", nil, "Attach to stdin, stdout or stderr")
	set.BoolVarP(&o.quiet, "quiet", "q", false, "Do not show the progress of a pull")
}

func newCreate(a *app) *cobra.Command {
	options := &createOptions{}
	cmd := &cobra.Command{
		Use:               "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short:             "Create a container without starting it",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeImages(1),
	}
	options.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withCode(125, a.runCreate(cmd, options, args))
	}
	return cmd
}

func (a *app) runCreate(cmd *cobra.Command, options *createOptions, args []string) error {
	container, err := options.spec.Spec(cmd.Flags(), args[0], args[1:])
	if err != nil {
		return err
	}
	process := container.GetProcess()
	stdin, _, _, err := attachedStreams(options.attach, process.GetStdin())
	if err != nil {
		return err
	}
	setInput(process, stdin)
	conn, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	id, err := a.create(cmd.Context(), conn, options, container)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, id)
	return nil
}

// create makes a container, pulling its image as --pull says, and writes --cidfile.
func (a *app) create(ctx context.Context, conn *client.Client, options *createOptions, container *berthv1.ContainerSpec) (id string, err error) {
	cidfile, err := newIDFile(options.cidfile)
	if err != nil {
		return "", err
	}
	defer cidfile.close()
	switch options.pull {
	case "missing", "never":
	case "always":
		if err := a.pullFor(ctx, conn, options, container); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("invalid value %q for --pull: want missing, always or never", options.pull)
	}
	request := &berthv1.CreateContainerRequest{Name: options.name, Spec: container}
	created, err := conn.Containers.CreateContainer(ctx, request)
	if options.pull == "missing" && client.IsNotFound(err) && a.isMissing(ctx, conn, container) {
		fmt.Fprintf(a.err, "Unable to find image %q locally, pulling it\n", container.GetImage())
		if err := a.pullFor(ctx, conn, options, container); err != nil {
			return "", err
		}
		created, err = conn.Containers.CreateContainer(ctx, request)
	}
	if err != nil {
		return "", err
	}
	for _, warning := range append(options.spec.Warnings(), created.GetWarnings()...) {
		fmt.Fprintf(a.err, "warning: %s\n", warning)
	}
	return created.GetId(), cidfile.write(created.GetId())
}

// isMissing tells whether it is the image that was not found, and not a network or another container.
func (a *app) isMissing(ctx context.Context, conn *client.Client, container *berthv1.ContainerSpec) bool {
	_, err := conn.Images.InspectImage(ctx, &berthv1.InspectImageRequest{Image: container.GetImage(), Platform: container.GetPlatform()})
	return client.IsNotFound(err)
}

func (a *app) pullFor(ctx context.Context, conn *client.Client, options *createOptions, container *berthv1.ContainerSpec) error {
	progressTo := a.err
	if options.quiet {
		progressTo = io.Discard
	}
	_, err := a.pull(ctx, conn, progressTo, progressTo, &berthv1.PullImageRequest{Reference: container.GetImage(), Platform: container.GetPlatform()})
	return err
}

// idFile is the file of --cidfile: reserved before the container exists, and removed again if there comes none.
type idFile struct {
	file    *os.File
	written bool
}

func newIDFile(path string) (*idFile, error) {
	if path == "" {
		return &idFile{}, nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cannot write --cidfile %q: it exists; remove it, or make sure that the other container is not running", path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write --cidfile: %w", err)
	}
	return &idFile{file: file}, nil
}

func (f *idFile) write(id string) error {
	if f.file == nil {
		return nil
	}
	f.written = true
	if _, err := f.file.WriteString(id); err != nil {
		return fmt.Errorf("cannot write --cidfile: %w", err)
	}
	return nil
}

func (f *idFile) close() {
	if f.file == nil {
		return
	}
	_ = f.file.Close()
	if !f.written {
		_ = os.Remove(f.file.Name())
	}
}
