package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/format"
)

func newPort(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "port CONTAINER [PORT[/PROTOCOL]]",
		Short:             "Tell where a container's ports are published",
		Args:              between(1, 2),
		ValidArgsFunction: a.completeContainers(1, running),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			container, err := a.inspectContainer(cmd.Context(), conn, args[0])
			if err != nil {
				return err
			}
			wanted := ""
			if len(args) == 2 {
				if wanted = args[1]; !strings.Contains(wanted, "/") {
					wanted += "/tcp"
				}
			}
			found := false
			for _, port := range container.GetPorts() {
				name := fmt.Sprintf("%d/%s", port.GetContainerPort(), format.Protocol(port))
				switch wanted {
				case "":
					fmt.Fprintf(a.out, "%s -> %s\n", name, format.HostAddress(port))
				case name:
					found = true
					fmt.Fprintln(a.out, format.HostAddress(port))
				}
			}
			if wanted != "" && !found {
				return fmt.Errorf("container %q publishes no port %s", args[0], wanted)
			}
			return nil
		},
	}
}
