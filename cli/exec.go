package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/spec"
	"github.com/berthd/berth/cli/stream"
	"github.com/berthd/berth/cli/terminal"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type execOptions struct {
	process    spec.Process
	detach     bool
	detachKeys string
}

func newExec(a *app) *cobra.Command {
	options := &execOptions{}
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Run another process in a running container",
		Example: `  berth exec web ls /var/www
  berth exec -it web sh`,
		Args:              atLeast(2),
		ValidArgsFunction: a.completeContainers(1, running),
	}
	set := cmd.Flags()
	set.SetInterspersed(false)
	options.process.Register(set)
	set.BoolVarP(&options.detach, "detach", "d", false, "Run in the background")
	set.StringVar(&options.detachKeys, "detach-keys", "", "Keys that detach (default ctrl-p,ctrl-q)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.runExec(cmd, options, args) }
	return cmd
}

func (a *app) runExec(cmd *cobra.Command, options *execOptions, args []string) error {
	start := &berthv1.ExecStart{Container: args[0], Process: &berthv1.ProcessSpec{Args: args[1:]}, Detach: options.detach}
	process := start.Process
	if err := options.process.Apply(process); err != nil {
		return err
	}
	keys, err := terminal.ParseDetachKeys(options.detachKeys)
	if err != nil {
		return err
	}
	if options.detach {
		process.Stdin = false
	} else {
		start.Stdout, start.Stderr = true, true
		process.StdinOnce = process.GetStdin() && !process.GetTty()
		if process.GetTty() && process.GetStdin() && !terminal.Is(a.in) {
			return errors.New("the input is not a terminal, which -t needs together with -i; leave one of them out")
		}
		if width, height, ok := terminal.Size(a.out); ok && process.GetTty() {
			process.TtySize = &berthv1.TerminalSize{Width: uint32(width), Height: uint32(height)}
		}
	}
	conn, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	call, err := stream.Exec(cmd.Context(), conn.Containers, start)
	if err != nil {
		if code := client.StartExitCode(err); code != 0 {
			return withCode(code, err)
		}
		return err
	}
	defer call.Close()
	if options.detach {
		return nil
	}
	return a.pumpExec(call, process, keys)
}

func (a *app) pumpExec(call *stream.Call, process *berthv1.ProcessSpec, keys []byte) error {
	streams := stream.Streams{Out: a.out, Err: a.err, DetachKeys: keys}
	if process.GetStdin() {
		streams.In = a.in
		restore := func() {}
		if process.GetTty() {
			var err error
			if restore, err = terminal.MakeRaw(a.in); err != nil {
				return fmt.Errorf("cannot set the terminal to raw mode: %w", err)
			}
		}
		defer restore()
	}
	code, err := call.Pump(streams)
	switch {
	case errors.Is(err, terminal.ErrDetached):
		return nil
	case err != nil:
		return err
	}
	return exitStatus(code)
}
