package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/terminal"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type runOptions struct {
	createOptions
	detach     bool
	detachKeys string
	sigProxy   bool
}

func newRun(a *app) *cobra.Command {
	options := &runOptions{}
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a container and run it",
		Long: `Create a container from an image, pulling the image if it is not here, and run it.

The exit status is that of the container; 125 if berth itself failed, 126 if the command can't be
executed, 127 if it was not found. The keys ctrl-p ctrl-q detach from a container with a terminal.`,
		Example: `  berth run --rm busybox echo hello
  berth run -it --name shell busybox
  berth run -d -p 127.0.0.1:8080:80 -v data:/var/www busybox httpd -f -h /var/www`,
		Args:              atLeast(1),
		ValidArgsFunction: a.completeImages(1),
	}
	options.register(cmd)
	set := cmd.Flags()
	set.BoolVarP(&options.detach, "detach", "d", false, "Run in the background and print the container's ID")
	set.StringVar(&options.detachKeys, "detach-keys", "", "Keys that detach (default ctrl-p,ctrl-q)")
	set.BoolVar(&options.sigProxy, "sig-proxy", true, "Pass signals on to the container")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withCode(125, a.runRun(cmd, options, args))
	}
	return cmd
}

func (a *app) runRun(cmd *cobra.Command, options *runOptions, args []string) error {
	container, err := options.spec.Spec(cmd.Flags(), args[0], args[1:])
	if err != nil {
		return err
	}
	session, err := a.newSession(container.GetProcess(), options)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	id, err := a.create(ctx, conn, &options.createOptions, container)
	if err != nil {
		return err
	}
	session.container, session.autoRemove, session.created = id, container.GetAutoRemove(), true
	if !options.detach {
		return session.run(ctx, conn)
	}
	if _, err := conn.Containers.StartContainer(ctx, &berthv1.StartContainerRequest{Container: id}); err != nil {
		return session.startFailed(ctx, conn, err)
	}
	fmt.Fprintln(a.out, id)
	return nil
}

// newSession decides which streams are attached, before anything is created.
func (a *app) newSession(process *berthv1.ProcessSpec, options *runOptions) (*session, error) {
	keys, err := terminal.ParseDetachKeys(options.detachKeys)
	if err != nil {
		return nil, err
	}
	s := &session{app: a, tty: process.GetTty(), detachKeys: keys, sigProxy: options.sigProxy}
	if options.detach {
		if len(options.attach) > 0 {
			return nil, errors.New("conflicting options: --attach and --detach can't be used together")
		}
		return s, nil
	}
	if s.stdin, s.stdout, s.stderr, err = attachedStreams(options.attach, process.GetStdin()); err != nil {
		return nil, err
	}
	setInput(process, s.stdin)
	if process.GetTty() && s.stdin && !terminal.Is(a.in) {
		return nil, errors.New("the input is not a terminal, which -t needs together with -i; leave one of them out")
	}
	if width, height, ok := terminal.Size(a.out); ok && process.GetTty() {
		process.TtySize = &berthv1.TerminalSize{Width: uint32(width), Height: uint32(height)}
	}
	return s, nil
}

// setInput says when the input of a process ends. That of a terminal is left open for the client that attaches next: it
// ends with a key, not with a client.
func setInput(process *berthv1.ProcessSpec, attached bool) {
	process.Stdin = process.GetStdin() || attached
	process.StdinOnce = attached && !process.GetTty()
}

// attachedStreams reads the values of -a; without any, output is attached, and input with -i.
func attachedStreams(names []string, interactive bool) (stdin, stdout, stderr bool, err error) {
	if len(names) == 0 {
		return interactive, true, true, nil
	}
	known := []string{"stdin", "stdout", "stderr"}
	attached := map[string]bool{}
	for _, name := range names {
		name = strings.ToLower(name)
		if !slices.Contains(known, name) {
			return false, false, false, fmt.Errorf("invalid value %q for --attach: want stdin, stdout or stderr", name)
		}
		attached[name] = true
	}
	return attached["stdin"], attached["stdout"], attached["stderr"], nil
}

// startFailed gives the exit status for a container that could not be started, and removes it if it was to go away.
func (s *session) startFailed(ctx context.Context, conn *client.Client, cause error) error {
	code := client.StartExitCode(cause)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if code == 0 {
		// The daemon keeps the status with the container's state.
		answer, err := conn.Containers.InspectContainer(ctx, &berthv1.InspectContainerRequest{Container: s.container})
		if state := answer.GetContainer().GetState(); err == nil && (state.GetExitCode() == 126 || state.GetExitCode() == 127) {
			code = int(state.GetExitCode())
		}
	}
	if s.autoRemove {
		_, err := conn.Containers.RemoveContainer(ctx, &berthv1.RemoveContainerRequest{Container: s.container, Force: true, Volumes: true})
		if err != nil && !client.IsNotFound(err) {
			cause = errors.Join(cause, err)
		}
	}
	if code != 126 && code != 127 {
		code = 125
	}
	return &exitError{code: code, err: cause}
}
