package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// usageRow is a kind of objects as system df prints it.
type usageRow struct {
	Type        string
	TotalCount  string
	Active      string
	Size        string
	Reclaimable string
}

func newDiskUsage(a *app) *cobra.Command {
	var layout string
	cmd := &cobra.Command{Use: "df [OPTIONS]", Short: "Show what images, containers and volumes take on disk", Args: exactly(0)}
	cmd.Flags().StringVar(&layout, "format", "", "table, table TEMPLATE, json, or a Go template")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		answer, err := conn.System.GetDiskUsage(cmd.Context(), &berthv1.GetDiskUsageRequest{})
		if err != nil {
			return err
		}
		var rows []usageRow
		for _, usage := range answer.GetUsages() {
			reclaimable := format.Size(usage.GetReclaimable())
			if usage.GetSize() > 0 {
				reclaimable += fmt.Sprintf(" (%d%%)", 100*usage.GetReclaimable()/usage.GetSize())
			}
			rows = append(rows, usageRow{
				Type: usage.GetKind(), TotalCount: fmt.Sprint(usage.GetTotal()), Active: fmt.Sprint(usage.GetActive()),
				Size: format.Size(usage.GetSize()), Reclaimable: reclaimable,
			})
		}
		if layout == "" || layout == "table" {
			layout = `table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}`
		}
		return format.List(a.out, layout, usageRow{"TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"}, rows)
	}
	return cmd
}
