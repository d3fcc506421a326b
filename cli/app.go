package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/internal/version"
)

// app is what every command needs: the standard streams, the global flags, and the connection once there is one.
type app struct {
	in       io.Reader
	out, err io.Writer
	host     string
	logLevel string
	conn     *client.Client
	// keepSignals leaves SIGINT and SIGTERM to the command: it forwards them to a container.
	keepSignals func()
}

func newApp(in io.Reader, out, err io.Writer) *app {
	return &app{in: in, out: out, err: err, keepSignals: func() {}}
}

// connect returns the connection to berthd; all calls of a command share it.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	if a.conn != nil {
		return a.conn, nil
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
		return nil, fmt.Errorf("invalid value %q for --log-level: want debug, info, warn or error", a.logLevel)
	}
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
	conn, err := client.Dial(ctx, a.host, log)
	a.conn = conn
	return conn, err
}

func (a *app) close() {
	if a.conn != nil {
		_ = a.conn.Close()
	}
}

// explain turns the errors of calls into sentences, also those inside an exitError or joined.
func (a *app) explain(err error) error {
	var exit *exitError
	switch {
	case err == nil || a.conn == nil:
		return err
	case errors.As(err, &exit):
		return &exitError{code: exit.code, err: a.explain(exit.err)}
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // only what was joined at the top is several errors
		var explained []error
		for _, one := range joined.Unwrap() {
			explained = append(explained, a.explain(one))
		}
		return errors.Join(explained...)
	}
	return a.conn.Explain(err)
}

// each does something for every name and prints the names for which it worked; the others do not stop it.
func (a *app) each(names []string, do func(name string) error) error {
	var failed []error
	for _, name := range names {
		if err := do(name); err != nil {
			failed = append(failed, err)
			continue
		}
		fmt.Fprintln(a.out, name)
	}
	return errors.Join(failed...)
}

const (
	groupContainers = "containers"
	groupImages     = "images"
	groupSystem     = "system"
)

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "berth",
		Short:         "Run and manage containers",
		Version:       version.String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args:          knownCommand,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(125, cmd, err) })
	host := os.Getenv("BERTH_HOST")
	if host == "" {
		host = client.DefaultHost
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&a.host, "host", "H", host, "Socket of berthd ($BERTH_HOST)")
	flags.StringVar(&a.logLevel, "log-level", "warn", "What to log on standard error: debug, info, warn or error")
	root.AddGroup(
		&cobra.Group{ID: groupContainers, Title: "Containers:"},
		&cobra.Group{ID: groupImages, Title: "Images:"},
		&cobra.Group{ID: groupSystem, Title: "Volumes, networks, system:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, command := range commands {
			command.GroupID = group
			root.AddCommand(command)
		}
	}
	add(groupContainers, newContainerGroup(a))
	add(groupContainers, containerCommands(a)...)
	add(groupImages, newImageGroup(a))
	add(groupImages, imageCommands(a)...)
	add(groupSystem, newVolumeGroup(a), newNetworkGroup(a), newSystemGroup(a),
		newInspect(a, ""), newInfo(a), newVersion(a), newEvents(a))
	root.SetCompletionCommandGroupID(groupSystem)
	root.SetHelpCommandGroupID(groupSystem)
	return root
}

// containerCommands are those of the top level and of "berth container".
func containerCommands(a *app) []*cobra.Command {
	return []*cobra.Command{
		newRun(a), newCreate(a), newStart(a), newStop(a), newKill(a), newRestart(a), newRemove(a), newPs(a), newLogs(a),
		newExec(a), newAttach(a), newWait(a), newPause(a), newUnpause(a), newRename(a), newPort(a),
	}
}

// imageCommands are those of the top level and of "berth image".
func imageCommands(a *app) []*cobra.Command {
	return []*cobra.Command{newPull(a), newPush(a), newImages(a), newRmi(a), newTag(a)}
}

// newGroup returns a command that only holds others.
func newGroup(use, short string, commands ...*cobra.Command) *cobra.Command {
	group := &cobra.Command{
		Use: use, Short: short, Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	group.AddCommand(commands...)
	return group
}

func newContainerGroup(a *app) *cobra.Command {
	commands := append(containerCommands(a), newInspect(a, "container"))
	for _, command := range commands {
		switch command.Name() {
		case "ps":
			command.Use, command.Aliases = "ls [OPTIONS]", []string{"list", "ps"}
		case "rm":
			command.Aliases = []string{"remove"}
		}
	}
	return newGroup("container", "Manage containers", commands...)
}

func newImageGroup(a *app) *cobra.Command {
	commands := append(imageCommands(a), newInspect(a, "image"), newHistory(a))
	for _, command := range commands {
		switch command.Name() {
		case "images":
			command.Use, command.Aliases = "ls [OPTIONS] [REPOSITORY[:TAG]]", []string{"list"}
		case "rmi":
			command.Use, command.Aliases = "rm [OPTIONS] IMAGE [IMAGE...]", []string{"remove"}
		}
	}
	return newGroup("image", "Manage images", commands...)
}

func newSystemGroup(a *app) *cobra.Command {
	return newGroup("system", "Manage berth", newInfo(a), newEvents(a))
}

func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q", cmd.CommandPath()+" "+args[0])
	if names := cmd.SuggestionsFor(args[0]); len(names) > 0 {
		err = fmt.Errorf("%w: did you mean %s?", err, strings.Join(names, " or "))
	}
	return usageError(1, cmd, err)
}

// atLeast and exactly check the number of arguments and say it in words.
func atLeast(count int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < count {
			return usageError(1, cmd, fmt.Errorf("%q requires at least %s", cmd.CommandPath(), arguments(count)))
		}
		return nil
	}
}

func exactly(count int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != count {
			return usageError(1, cmd, fmt.Errorf("%q requires exactly %s", cmd.CommandPath(), arguments(count)))
		}
		return nil
	}
}

func atMost(count int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > count {
			return usageError(1, cmd, fmt.Errorf("%q takes at most %s", cmd.CommandPath(), arguments(count)))
		}
		return nil
	}
}

func arguments(count int) string {
	switch count {
	case 0:
		return "no argument"
	case 1:
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", count)
}

func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := atLeast(least)(cmd, args); err != nil {
			return err
		}
		return atMost(most)(cmd, args)
	}
}
