package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/format"
	"github.com/berthd/berth/cli/terminal"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newAttach(a *app) *cobra.Command {
	var noStdin, sigProxy bool
	var detachKeys string
	cmd := &cobra.Command{
		Use:               "attach [OPTIONS] CONTAINER",
		Short:             "Attach to the input and output of a running container",
		Args:              exactly(1),
		ValidArgsFunction: a.completeContainers(1, running),
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "Do not attach to the input")
	cmd.Flags().StringVar(&detachKeys, "detach-keys", "", "Keys that detach (default ctrl-p,ctrl-q)")
	cmd.Flags().BoolVar(&sigProxy, "sig-proxy", true, "Pass signals on to the container")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		ctx := cmd.Context()
		keys, err := terminal.ParseDetachKeys(detachKeys)
		if err != nil {
			return err
		}
		conn, err := a.connect(ctx)
		if err != nil {
			return err
		}
		container, err := a.inspectContainer(ctx, conn, names[0])
		if err != nil {
			return err
		}
		if status := container.GetState().GetStatus(); status != berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING {
			return fmt.Errorf("cannot attach to container %q: it is %s, not running", names[0], format.State(status))
		}
		s := &session{
			app: a, container: container.GetId(), tty: container.GetProcess().GetTty(), detachKeys: keys, sigProxy: sigProxy,
			stdin: !noStdin && container.GetProcess().GetStdin(), stdout: true, stderr: true,
			autoRemove: container.GetSpec().GetAutoRemove(),
		}
		call, err := s.attach(ctx, conn)
		if err != nil {
			return err
		}
		stop := s.proxySignals(ctx, conn, call.Close)
		defer stop()
		return s.pump(ctx, conn, call)
	}
	return cmd
}

func (a *app) inspectContainer(ctx context.Context, conn *client.Client, name string) (*berthv1.Container, error) {
	answer, err := conn.Containers.InspectContainer(ctx, &berthv1.InspectContainerRequest{Container: name})
	return answer.GetContainer(), err
}
