package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type pruneOptions struct {
	force   bool
	filters []string
}

func (o *pruneOptions) register(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "Do not ask")
	cmd.Flags().StringArrayVar(&o.filters, "filter", nil, "Only those that fit, as label=NAME or until=24h")
}

// pruned is what a prune has removed; negative bytes stand for a kind that takes no space.
type pruned struct {
	kind  string
	names []string
	bytes int64
}

// prune asks, unless --force says not to, removes what, and prints what is gone.
func (a *app) prune(cmd *cobra.Command, options pruneOptions, what string, remove func(*client.Client, []*berthv1.Filter) (pruned, error)) error {
	filters, err := parseFilters(options.filters)
	if err != nil {
		return err
	}
	if !options.force {
		fmt.Fprintf(a.out, "This removes %s. Go on? [y/N] ", what)
		answer, _ := bufio.NewReader(a.in).ReadString('\n')
		if word := strings.ToLower(strings.TrimSpace(answer)); word != "y" && word != "yes" {
			return errors.New("nothing was removed; --force removes without asking")
		}
	}
	conn, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	gone, err := remove(conn, filters)
	if err != nil {
		return err
	}
	if len(gone.names) > 0 {
		fmt.Fprintf(a.out, "Deleted %s:\n%s\n\n", gone.kind, strings.Join(gone.names, "\n"))
	}
	if gone.bytes >= 0 {
		fmt.Fprintf(a.out, "Total reclaimed space: %s\n", format.Size(gone.bytes))
	}
	return nil
}
