// Command berth is the command line of berth: docker's commands, flags and exit codes over berthd's own API.
//
// A file a command. Each has a constructor that returns its cobra command; app carries what all of them need.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/terminal"
)

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		received := <-signals
		signal.Stop(signals) // a second one ends berth at once
		cancel(interrupted{received.(syscall.Signal)})
	}()
	a := newApp(os.Stdin, os.Stdout, os.Stderr)
	a.keepSignals = func() { signal.Stop(signals) }
	err := run(ctx, a, os.Args[1:])
	os.Exit(report(ctx, os.Stderr, err))
}

// run does what args say.
func run(ctx context.Context, a *app, args []string) error {
	defer a.close()
	root := newRoot(a, args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	if err := checkCommand(root, args); err != nil {
		return err
	}
	if err := a.explain(root.ExecuteContext(ctx)); err != nil {
		return err
	}
	return a.out.failed()
}

// interrupted is why the context ends when a signal arrived.
type interrupted struct{ signal syscall.Signal }

func (i interrupted) Error() string { return "interrupted by " + i.signal.String() }

// exitError is a failure with its exit status. Without an error it is the status of a process, and nothing is printed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// withCode gives err an exit status, unless it has one.
func withCode(code int, err error) error {
	var has *exitError
	if err == nil || errors.As(err, &has) {
		return err
	}
	return &exitError{code: code, err: err}
}

// report prints err as people read it, and returns the exit status.
func report(ctx context.Context, stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	var signal interrupted
	if errors.As(context.Cause(ctx), &signal) {
		return 128 + int(signal.signal)
	}
	code := 1
	var exit *exitError
	if errors.As(err, &exit) {
		if code = exit.code; exit.err == nil {
			return code
		}
	}
	printError(stderr, err)
	return code
}

// printError writes a line for each of the errors that err joins.
func printError(stderr io.Writer, err error) {
	var several interface{ Unwrap() []error }
	if exit := (*exitError)(nil); errors.As(err, &exit) && exit.err != nil {
		err = exit.err
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // only what was joined at the top is several errors
		several = joined
		for _, one := range several.Unwrap() {
			printError(stderr, one)
		}
		return
	}
	prefix := "berth: "
	if terminal.Is(stderr) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		prefix = "\x1b[1;31mberth:\x1b[0m "
	}
	_, _ = fmt.Fprintf(stderr, "%s%v\n", prefix, err)
}

// usageError is a wrong command line: the sentence, and where to read more.
func usageError(code int, cmd *cobra.Command, err error) error {
	return &exitError{code: code, err: fmt.Errorf("%w\nSee \"%s --help\"", err, cmd.CommandPath())}
}
