package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/format"
	"github.com/berthd/berth/cli/spec"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newNetworkGroup(a *app) *cobra.Command {
	return newGroup("network", "Manage networks", newNetworkLs(a), newNetworkCreate(a), newNetworkRm(a), newInspect(a, "network"))
}

// networkRow is a network as network ls prints it.
type networkRow struct {
	CreatedAt string
	Driver    string
	ID        string
	IPv6      string
	Internal  string
	Labels    string
	Name      string
	Scope     string
}

func newNetworkLs(a *app) *cobra.Command {
	var quiet, whole bool
	var filterTexts []string
	var layout string
	cmd := &cobra.Command{Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List networks", Args: exactly(0)}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Print IDs only")
	cmd.Flags().BoolVar(&whole, "no-trunc", false, "Print whole IDs")
	cmd.Flags().StringArrayVarP(&filterTexts, "filter", "f", nil, "Only those that fit, as driver=bridge or name=web")
	cmd.Flags().StringVar(&layout, "format", "", "table, table TEMPLATE, json, or a Go template")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filters, err := parseFilters(filterTexts)
		if err != nil {
			return err
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		answer, err := conn.Networks.ListNetworks(cmd.Context(), &berthv1.ListNetworksRequest{Filters: filters})
		if err != nil {
			return err
		}
		if layout == "" || layout == "table" {
			layout = `table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}`
			if quiet {
				layout = "{{.ID}}"
			}
		}
		var rows []networkRow
		for _, network := range answer.GetNetworks() {
			config := network.GetConfig()
			rows = append(rows, networkRow{
				CreatedAt: format.Time(network.GetCreatedAt()), Driver: config.GetDriver(), ID: format.ID(network.GetId(), whole), IPv6: fmt.Sprint(config.GetIpv6()),
				Internal: fmt.Sprint(config.GetInternal()), Labels: format.Labels(config.GetLabels()), Name: config.GetName(), Scope: "local",
			})
		}
		header := networkRow{"CREATED AT", "DRIVER", "NETWORK ID", "IPV6", "INTERNAL", "LABELS", "NAME", "SCOPE"}
		return format.List(a.out, layout, header, rows)
	}
	return cmd
}

func newNetworkCreate(a *app) *cobra.Command {
	config := &berthv1.NetworkConfig{}
	var labels, options, subnets, ranges, gateways []string
	cmd := &cobra.Command{Use: "create [OPTIONS] NETWORK", Short: "Create a network", Args: exactly(1)}
	set := cmd.Flags()
	set.StringVarP(&config.Driver, "driver", "d", "bridge", "Driver")
	set.BoolVar(&config.Internal, "internal", false, "No way out of the network")
	set.BoolVar(&config.Ipv6, "ipv6", false, "")
	_ = set.MarkHidden("ipv6") // refused by berthd
	set.BoolVar(&config.Attachable, "attachable", false, "Containers may join by hand")
	set.StringArrayVar(&labels, "label", nil, "Set a label (NAME=value)")
	set.StringArrayVarP(&options, "opt", "o", nil, "Set an option of the driver (NAME=value)")
	set.StringArrayVar(&subnets, "subnet", nil, "Subnet, as 10.1.0.0/16")
	set.StringArrayVar(&ranges, "ip-range", nil, "Part of the subnet that containers get addresses from")
	set.StringArrayVar(&gateways, "gateway", nil, "Address of the gateway in the subnet")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		config.Name = args[0]
		if config.Labels, err = spec.KeyValues("label", labels); err != nil {
			return err
		}
		if config.Options, err = spec.KeyValues("opt", options); err != nil {
			return err
		}
		if config.Subnets, err = spec.Subnets(subnets, ranges, gateways); err != nil {
			return err
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		answer, err := conn.Networks.CreateNetwork(cmd.Context(), &berthv1.CreateNetworkRequest{Config: config})
		if err != nil {
			return err
		}
		for _, warning := range answer.GetWarnings() {
			fmt.Fprintf(a.err, "warning: %s\n", warning)
		}
		fmt.Fprintln(a.out, answer.GetId())
		return nil
	}
	return cmd
}

func newNetworkRm(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm NETWORK [NETWORK...]", Aliases: []string{"remove"}, Short: "Remove networks", Args: atLeast(1),
		ValidArgsFunction: a.completeNames(0, networkList),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "No error for a network that does not exist")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return a.each(cmd.Context(), names, func(conn *client.Client, name string) error {
			_, err := conn.Networks.RemoveNetwork(cmd.Context(), &berthv1.RemoveNetworkRequest{Network: name})
			return toleratesAbsence(force, err)
		})
	}
	return cmd
}
