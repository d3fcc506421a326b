package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newContainerPrune(a *app) *cobra.Command {
	var force bool
	var filterTexts []string
	cmd := &cobra.Command{Use: "prune [OPTIONS]", Short: "Remove all containers that do not run", Args: exactly(0)}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not ask")
	cmd.Flags().StringArrayVar(&filterTexts, "filter", nil, "Only those that fit, as label=NAME or until=24h")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filters, err := parseFilters(filterTexts)
		if err != nil {
			return err
		}
		if !force && !a.confirms("This removes all containers that do not run. Go on?") {
			return errors.New("nothing was removed; --force removes without asking")
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		answer, err := conn.Containers.PruneContainers(cmd.Context(), &berthv1.PruneContainersRequest{Filters: filters})
		if err != nil {
			return err
		}
		if len(answer.GetRemoved()) > 0 {
			fmt.Fprintf(a.out, "Deleted Containers:\n%s\n\n", strings.Join(answer.GetRemoved(), "\n"))
		}
		fmt.Fprintf(a.out, "Total reclaimed space: %s\n", format.Size(answer.GetSpaceReclaimed()))
		return nil
	}
	return cmd
}

// confirms asks a question that only yes answers.
func (a *app) confirms(question string) bool {
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	answer, _ := bufio.NewReader(a.in).ReadString('\n') // no answer is a no
	word := strings.ToLower(strings.TrimSpace(answer))
	return word == "y" || word == "yes"
}
