package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/format"
	"github.com/berthd/berth/cli/stream"
	"github.com/berthd/berth/cli/terminal"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// session is the user's terminal or pipes connected to the process of a container: run, start -a and attach.
type session struct {
	app                   *app
	container             string
	tty                   bool
	stdin, stdout, stderr bool
	detachKeys            []byte
	sigProxy              bool
	// autoRemove: the container goes away after its exit, and the session waits for that.
	autoRemove bool
	// created: this command has made the container, which nobody needs if it can't be attached to.
	created bool
}

// run attaches, starts the container, and stays until it has exited. It attaches first, so that nothing is lost.
func (s *session) run(ctx context.Context, conn *client.Client) error {
	call, err := s.attach(ctx, conn)
	if err != nil && s.created {
		return s.startFailed(ctx, conn, err)
	}
	if err != nil {
		return err
	}
	defer call.Close()
	stopProxy := s.proxySignals(ctx, conn, call.Close)
	defer stopProxy()
	start := &berthv1.StartContainerRequest{Container: s.container}
	if width, height, ok := terminal.Size(s.app.out); ok && s.tty {
		start.TtySize = &berthv1.TerminalSize{Width: uint32(width), Height: uint32(height)}
	}
	if _, err := conn.Containers.StartContainer(ctx, start); err != nil {
		return s.startFailed(ctx, conn, err)
	}
	return s.pump(ctx, conn, call)
}

func (s *session) attach(ctx context.Context, conn *client.Client) (*stream.Call, error) {
	return stream.Attach(ctx, conn.Containers, &berthv1.AttachStart{
		Container: s.container, Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr,
	})
}

// pump moves bytes until the container has exited or the user has detached, and returns the container's status.
func (s *session) pump(ctx context.Context, conn *client.Client, call *stream.Call) error {
	streams := stream.Streams{Out: io.Discard, Err: io.Discard, DetachKeys: s.detachKeys}
	restore := func() {}
	if s.stdin {
		streams.In = s.app.in
		if s.tty {
			var err error
			if restore, err = terminal.MakeRaw(s.app.in); err != nil {
				return fmt.Errorf("cannot set the terminal to raw mode: %w", err)
			}
		}
		defer func() { restore() }()
	}
	if s.stdout {
		streams.Out = s.app.out
	}
	if s.stderr {
		streams.Err = s.app.err
	}
	removal, giveUp := s.awaitRemoval(ctx, conn)
	defer giveUp()
	code, err := call.Pump(streams)
	switch {
	case errors.Is(err, terminal.ErrDetached):
		restore() // a raw terminal would go on in the middle of the line
		fmt.Fprintf(s.app.err, "\nDetached; \"berth attach %s\" comes back\n", format.ID(s.container, false))
		return nil
	case errors.Is(err, stream.ErrNoExit):
		return s.waitExit(ctx, conn)
	case err != nil:
		return err
	}
	if err := removal(); err != nil && !client.IsNotFound(err) {
		return err
	}
	return exitStatus(code)
}

// awaitRemoval asks, while the container still runs, to be told when it is gone: asking after its exit would take one
// more round trip. The first function that it returns waits for the answer, the second takes the question back.
func (s *session) awaitRemoval(ctx context.Context, conn *client.Client) (answer func() error, giveUp func()) {
	if !s.autoRemove {
		return func() error { return nil }, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var err error
	var asking sync.WaitGroup
	asking.Go(func() { _, err = s.wait(ctx, conn, berthv1.WaitCondition_WAIT_CONDITION_REMOVED) })
	answer = func() error {
		asking.Wait()
		return err
	}
	giveUp = func() {
		cancel()
		asking.Wait()
	}
	return answer, giveUp
}

func (s *session) waitExit(ctx context.Context, conn *client.Client) error {
	code, err := s.wait(ctx, conn, berthv1.WaitCondition_WAIT_CONDITION_NOT_RUNNING)
	if err != nil {
		return err
	}
	return exitStatus(code)
}

func (s *session) wait(ctx context.Context, conn *client.Client, condition berthv1.WaitCondition) (int, error) {
	answer, err := conn.Containers.WaitContainer(ctx, &berthv1.WaitContainerRequest{Container: s.container, Condition: condition})
	return int(answer.GetExitCode()), err
}

// exitStatus makes a process's status that of berth.
func exitStatus(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

// patience is how many times a user interrupts a container that does not care before berth leaves it alone.
const patience = 3

// proxySignals passes signals on to the container, until the function that it returns is called. It calls giveUp when
// the user has interrupted several times.
func (s *session) proxySignals(ctx context.Context, conn *client.Client, giveUp func()) (stop func()) {
	if !s.sigProxy {
		return func() {}
	}
	received := make(chan os.Signal, 16)
	signal.Notify(received, proxied()...)
	s.app.keepSignals()
	done := make(chan struct{})
	var owner sync.WaitGroup
	owner.Go(func() {
		interrupts := 0
		for {
			select {
			case sig := <-received:
				if s.forward(ctx, conn, sig.(syscall.Signal)); sig == unix.SIGINT || sig == unix.SIGTERM {
					interrupts++
				}
				if interrupts == patience {
					fmt.Fprintf(s.app.err, "berth: leaving the container after %d interrupts; it goes on: see \"berth ps\"\n", patience)
					giveUp()
				}
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(received)
		close(done)
		owner.Wait()
	}
}

// proxied are all signals but those about berth's own process and terminal, and those that Go's runtime uses.
func proxied() []os.Signal {
	var signals []os.Signal
	for sig := unix.Signal(1); sig < 32; sig++ {
		switch sig {
		case unix.SIGCHLD, unix.SIGPIPE, unix.SIGURG, unix.SIGWINCH, unix.SIGTTIN, unix.SIGTTOU, unix.SIGTSTP, unix.SIGCONT,
			unix.SIGKILL, unix.SIGSTOP, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGPROF:
		default:
			signals = append(signals, sig)
		}
	}
	return signals
}

func (s *session) forward(ctx context.Context, conn *client.Client, sig syscall.Signal) {
	_, err := conn.Containers.KillContainer(ctx, &berthv1.KillContainerRequest{Container: s.container, Signal: strconv.Itoa(int(sig))})
	if err != nil && !client.IsPrecondition(err) && !client.IsNotFound(err) {
		fmt.Fprintf(s.app.err, "berth: cannot pass on %v: %v\n", sig, conn.Explain(err))
	}
}
