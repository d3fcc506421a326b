package main

import (
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/berthd/berth/runtime/container"
)

func (g *globals) list(args []string) (int, error) {
	flags := newFlags("list", "[options]")
	format, quiet := "table", false
	both(flags.StringVar, &format, "format,f", "`format` of the output: table or json")
	both(flags.BoolVar, &quiet, "quiet,q", "print only IDs")
	rest, err := parse(flags, args)
	if err != nil {
		return 1, err
	}
	if err := checkArguments(flags, len(rest), 0, 0); err != nil {
		return 1, err
	}
	if _, err := os.Stat(g.root); err != nil && g.given { // the default one may not be there yet
		return 1, fmt.Errorf("cannot list containers: %w", err)
	}
	all, err := container.List(g.root, func(err error) { fmt.Fprintln(os.Stderr, err) })
	if err != nil {
		return 1, err
	}
	if quiet {
		for _, c := range all {
			fmt.Fprintln(os.Stdout, c.ID)
		}
		return 0, nil
	}
	var reports []report // without any it is null in JSON, as with runc
	for _, c := range all {
		r := reportOf(c)
		r.Owner = userName(c.Owner)
		reports = append(reports, r)
	}
	switch format {
	case "json":
		return 0, printJSON(reports, "")
	case "table":
		return 0, printTable(reports)
	}
	return 1, fmt.Errorf("unknown format %q: it is table or json", format)
}

func printTable(reports []report) error {
	table := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
	fmt.Fprintln(table, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
	for _, r := range reports {
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\n", r.ID, r.Pid, r.Status, r.Bundle, r.Created.Format(time.RFC3339Nano), r.Owner)
	}
	return table.Flush()
}
