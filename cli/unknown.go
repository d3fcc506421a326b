package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// unbuiltCommands are commands of docker that berth does not have yet, below the command that has or would have them.
func unbuiltCommands() map[string][]string {
	return map[string][]string{
		"berth": {
			"build", "builder", "buildx", "commit", "compose", "config", "context", "cp", "diff", "export", "import", "load",
			"manifest", "node", "plugin", "save", "search", "secret", "service", "stack", "swarm", "trust",
		},
		"berth container": {"commit", "cp", "diff", "export"},
		"berth image":     {"build", "import", "load", "prune", "save"},
		"berth network":   {"connect", "disconnect", "prune"},
		"berth volume":    {"prune", "update"},
		"berth system":    {"dial-stdio", "prune"},
	}
}

// checkCommand refuses an unknown command before its flags are looked at, which are those of no command that is known.
func checkCommand(root *cobra.Command, args []string) error {
	cmd := root
	for len(args) > 0 && cmd.HasSubCommands() {
		name := args[0]
		switch {
		case slices.Contains([]string{"-H", "--host", "--log-level"}, name) && len(args) > 1:
			args = args[2:]
			continue
		case name == "--" || name == "help" || name == "completion" || strings.HasPrefix(name, "__complete"):
			return nil
		case strings.HasPrefix(name, "-"):
			args = args[1:]
			continue
		}
		next := subcommand(cmd, name)
		if next == nil {
			return knownCommand(cmd, args)
		}
		cmd, args = next, args[1:]
	}
	return nil
}

func subcommand(cmd *cobra.Command, name string) *cobra.Command {
	for _, c := range cmd.Commands() {
		if c.Name() == name || c.HasAlias(name) {
			return c
		}
	}
	return nil
}

// knownCommand says what is wrong with the name of a command, and what could have been meant.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	name := args[0]
	err := fmt.Errorf("unknown command %q", cmd.CommandPath()+" "+name)
	if slices.Contains(unbuiltCommands()[cmd.CommandPath()], name) {
		return usageError(1, cmd, fmt.Errorf("%w: berth does not have it yet", err))
	}
	// Two typing errors make any short word out of another one.
	cmd.SuggestionsMinimumDistance = 1
	if len(name) > 3 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if transposed := transpositions(cmd, name); len(transposed) > 0 {
		return usageError(1, cmd, fmt.Errorf("%w: did you mean %s?", err, strings.Join(transposed, " or ")))
	}
	if names := cmd.SuggestionsFor(name); len(names) > 0 {
		err = fmt.Errorf("%w: did you mean %s?", err, strings.Join(names, " or "))
	}
	return usageError(1, cmd, err)
}

// transpositions are commands whose letters are those of name in another order, the most common typing error.
func transpositions(cmd *cobra.Command, name string) (names []string) {
	sorted := func(text string) string { return string(slices.Sorted(slices.Values([]rune(text)))) }
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && sorted(c.Name()) == sorted(name) {
			names = append(names, c.Name())
		}
	}
	return names
}
