package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/format"
	"github.com/berthd/berth/cli/spec"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newVolumeGroup(a *app) *cobra.Command {
	return newGroup("volume", "Manage volumes", newVolumeLs(a), newVolumeCreate(a), newVolumeRm(a), newInspect(a, "volume"))
}

// volumeRow is a volume as volume ls prints it.
type volumeRow struct {
	Driver     string
	Labels     string
	Links      string
	Mountpoint string
	Name       string
	Scope      string
	Size       string
}

func newVolumeLs(a *app) *cobra.Command {
	var quiet bool
	var filterTexts []string
	var layout string
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List volumes", Args: exactly(0),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Print names only")
	cmd.Flags().StringArrayVarP(&filterTexts, "filter", "f", nil, "Only those that fit, as dangling=true or name=data")
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
		answer, err := conn.Volumes.ListVolumes(cmd.Context(), &berthv1.ListVolumesRequest{Filters: filters})
		if err != nil {
			return err
		}
		if layout == "" || layout == "table" {
			layout = `table {{.Driver}}\t{{.Name}}`
			if quiet {
				layout = "{{.Name}}"
			}
		}
		var rows []volumeRow
		for _, volume := range answer.GetVolumes() {
			row := volumeRow{
				Driver: volume.GetDriver(), Labels: format.Labels(volume.GetLabels()), Links: fmt.Sprint(len(volume.GetContainers())),
				Mountpoint: volume.GetMountpoint(), Name: volume.GetName(), Scope: "local", Size: "N/A",
			}
			if volume.Size != nil {
				row.Size = format.Size(volume.GetSize())
			}
			rows = append(rows, row)
		}
		return format.List(a.out, layout, volumeRow{"DRIVER", "LABELS", "LINKS", "MOUNTPOINT", "VOLUME NAME", "SCOPE", "SIZE"}, rows)
	}
	return cmd
}

func newVolumeCreate(a *app) *cobra.Command {
	var driver string
	var labels, options []string
	cmd := &cobra.Command{Use: "create [OPTIONS] [NAME]", Short: "Create a volume", Args: atMost(1)}
	cmd.Flags().StringVarP(&driver, "driver", "d", "local", "Driver")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "Set a label (NAME=value)")
	cmd.Flags().StringArrayVarP(&options, "opt", "o", nil, "")
	_ = cmd.Flags().MarkHidden("opt") // refused by berthd
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := &berthv1.CreateVolumeRequest{Driver: driver}
		if len(args) == 1 {
			request.Name = args[0]
		}
		var err error
		if request.Labels, err = spec.KeyValues("label", labels); err != nil {
			return err
		}
		if request.Options, err = spec.KeyValues("opt", options); err != nil {
			return err
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		answer, err := conn.Volumes.CreateVolume(cmd.Context(), request)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.out, answer.GetVolume().GetName())
		return nil
	}
	return cmd
}

func newVolumeRm(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm [OPTIONS] VOLUME [VOLUME...]", Aliases: []string{"remove"}, Short: "Remove volumes", Args: atLeast(1),
		ValidArgsFunction: a.completeNames(0, volumeList),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "No error for a volume that does not exist")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return a.each(cmd.Context(), names, func(conn *client.Client, name string) error {
			_, err := conn.Volumes.RemoveVolume(cmd.Context(), &berthv1.RemoveVolumeRequest{Name: name, Force: force})
			if force && client.IsNotFound(err) {
				return nil
			}
			return err
		})
	}
	return cmd
}
