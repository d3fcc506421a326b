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
	out      *output
	err      io.Writer
	host     string
	logLevel string
	conn     *client.Client
	// keepSignals leaves SIGINT and SIGTERM to the command: it forwards them to a container.
	keepSignals func()
}

func newApp(in io.Reader, out, err io.Writer) *app {
	return &app{in: in, out: &output{to: out}, err: err, keepSignals: func() {}}
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

// each does something for every name in turn and prints the names for which it worked; the others do not stop it.
func (a *app) each(ctx context.Context, names []string, do func(conn *client.Client, name string) error) error {
	return a.collect(ctx, names, 1, func(conn *client.Client, name string) (string, error) { return name, do(conn, name) })
}

// parallelCalls is how many calls of one command are under way at once, as docker's.
const parallelCalls = 50

// eachAtOnce is each with several names at a time, for what takes long and is done to one container without the others.
func (a *app) eachAtOnce(ctx context.Context, names []string, do func(conn *client.Client, name string) error) error {
	return a.collect(ctx, names, parallelCalls, func(conn *client.Client, name string) (string, error) { return name, do(conn, name) })
}

// absentError is the error of a name that does not exist, where that is told and is no failure.
type absentError struct{ err error }

func (e *absentError) Error() string { return e.err.Error() }

// toleratesAbsence is the error of a removal with or without --force: with it, a name that does not exist is no failure.
func toleratesAbsence(force bool, err error) error {
	if force && client.IsNotFound(err) {
		return &absentError{err}
	}
	return err
}

// collect calls do for every name, at most limit at a time, and prints what it answers. Answers and errors come in the
// order of the names, each as soon as it and those before it are there.
func (a *app) collect(ctx context.Context, names []string, limit int, do func(*client.Client, string) (string, error)) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	type answer struct {
		text string
		err  error
	}
	answers := make([]chan answer, len(names))
	for i := range answers {
		answers[i] = make(chan answer, 1)
	}
	go func() {
		slots := make(chan struct{}, limit)
		for i, name := range names {
			slots <- struct{}{}
			go func() {
				text, err := do(conn, name)
				answers[i] <- answer{text, err}
				<-slots
			}()
		}
	}()
	var failed []error
	for _, pending := range answers {
		result := <-pending
		var missing *absentError
		if errors.As(result.err, &missing) {
			fmt.Fprintf(a.err, "berth: %v\n", a.explain(missing.err))
			continue
		}
		if result.err != nil {
			failed = append(failed, result.err)
			continue
		}
		fmt.Fprintln(a.out, result.text)
	}
	return errors.Join(failed...)
}

// maker makes one command. Most calls need only one: making all takes a good part of a short call's time.
type maker struct {
	name string
	make func(*app) *cobra.Command
}

func containerMakers() []maker {
	return []maker{
		{"run", newRun},
		{"create", newCreate},
		{"start", newStart},
		{"stop", newStop},
		{"kill", newKill},
		{"restart", newRestart},
		{"rm", newRemove},
		{"ps", newPs},
		{"logs", newLogs},
		{"exec", newExec},
		{"attach", newAttach},
		{"wait", newWait},
		{"pause", newPause},
		{"unpause", newUnpause},
		{"rename", newRename},
		{"port", newPort},
		{"top", newTop},
		{"stats", newStats},
		{"update", newUpdate},
	}
}

func imageMakers() []maker {
	return []maker{{"pull", newPull}, {"push", newPush}, {"images", newImages}, {"rmi", newRmi}, {"tag", newTag}}
}

func systemMakers() []maker {
	return []maker{
		{"volume", newVolumeGroup},
		{"network", newNetworkGroup},
		{"system", newSystemGroup},
		{"info", newInfo},
		{"version", newVersion},
		{"events", newEvents},
		{"login", newLogin},
		{"logout", newLogout},
		{"inspect", func(a *app) *cobra.Command { return newInspect(a, "") }},
	}
}

// makeAll makes the commands of makers.
func makeAll(a *app, makers []maker) []*cobra.Command {
	commands := make([]*cobra.Command, len(makers))
	for i, m := range makers {
		commands[i] = m.make(a)
	}
	return commands
}

// newRoot returns the command line with the one command that args start with, or with all where they start otherwise.
func newRoot(a *app, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "berth",
		Short:         "Run and manage containers",
		Version:       version.String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args:          knownCommand,
	}
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(125, cmd, err) })
	host := os.Getenv("BERTH_HOST")
	if host == "" {
		host = client.DefaultHost
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&a.host, "host", "H", host, "Socket of berthd ($BERTH_HOST)")
	flags.StringVar(&a.logLevel, "log-level", "warn", "What to log on standard error: debug, info, warn or error")
	groups := []struct {
		id, title string
		makers    []maker
	}{
		{"containers", "Containers:", append(containerMakers(), maker{"container", newContainerGroup})},
		{"images", "Images:", append(imageMakers(), maker{"history", newHistory}, maker{"image", newImageGroup})},
		{"system", "Volumes, networks, system:", systemMakers()},
	}
	for _, group := range groups {
		root.AddGroup(&cobra.Group{ID: group.id, Title: group.title})
		for _, m := range group.makers {
			if len(args) > 0 && args[0] == m.name {
				addCommand(root, group.id, m.make(a))
				return root
			}
		}
	}
	for _, group := range groups {
		for _, command := range makeAll(a, group.makers) {
			addCommand(root, group.id, command)
		}
	}
	// Only a shell that asks for completions gets here with them: it calls __complete, which is no command's name.
	if len(args) > 0 && strings.HasPrefix(args[0], "__complete") {
		a.completeAllFlags(root)
	}
	root.SetCompletionCommandGroupID("system")
	root.SetHelpCommandGroupID("system")
	return root
}

func addCommand(root *cobra.Command, group string, command *cobra.Command) {
	command.GroupID = group
	root.AddCommand(command)
	for _, c := range append(command.Commands(), command) {
		c.DisableFlagsInUseLine = true // each says itself where its flags go
	}
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
	commands := append(makeAll(a, containerMakers()), newInspect(a, "container"), newContainerPrune(a))
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
	commands := append(makeAll(a, imageMakers()), newInspect(a, "image"), newHistory(a))
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
	return newGroup("system", "Manage berth", newInfo(a), newEvents(a), newDiskUsage(a))
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
		switch {
		case len(args) == count:
			return nil
		case count == 0:
			return usageError(1, cmd, fmt.Errorf("%q takes no arguments, but got %q", cmd.CommandPath(), args[0]))
		}
		return usageError(1, cmd, fmt.Errorf("%q requires exactly %s", cmd.CommandPath(), arguments(count)))
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
	if count == 1 {
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
