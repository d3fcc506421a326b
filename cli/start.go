package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/terminal"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newStart(a *app) *cobra.Command {
	var attach, interactive, sigProxy bool
	var detachKeys string
	cmd := &cobra.Command{
		Use:               "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Start containers",
		Args:              atLeast(1),
		ValidArgsFunction: a.completeContainers(0, stopped),
	}
	set := cmd.Flags()
	set.BoolVarP(&attach, "attach", "a", false, "Attach to the output, and exit with the container's status")
	set.BoolVarP(&interactive, "interactive", "i", false, "Attach to the input too")
	set.StringVar(&detachKeys, "detach-keys", "", "Keys that detach (default ctrl-p,ctrl-q)")
	set.BoolVar(&sigProxy, "sig-proxy", true, "Pass signals on to the container, with --attach")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		if !attach && !interactive {
			return a.each(cmd.Context(), names, func(conn *client.Client, name string) error {
				_, err := conn.Containers.StartContainer(cmd.Context(), &berthv1.StartContainerRequest{Container: name})
				return err
			})
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		if len(names) > 1 {
			return errors.New("cannot attach to several containers at once")
		}
		keys, err := terminal.ParseDetachKeys(detachKeys)
		if err != nil {
			return err
		}
		container, err := a.inspectContainer(cmd.Context(), conn, names[0])
		if err != nil {
			return err
		}
		s := &session{
			app: a, container: container.GetId(), tty: container.GetProcess().GetTty(), detachKeys: keys, sigProxy: sigProxy,
			stdin: interactive && container.GetProcess().GetStdin(), stdout: true, stderr: true,
			autoRemove: container.GetSpec().GetAutoRemove(),
		}
		return s.run(cmd.Context(), conn)
	}
	return cmd
}
