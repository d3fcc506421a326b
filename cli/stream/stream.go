// Package stream connects the user's terminal or pipes to a process of a container, over the bidirectional calls
// AttachContainer and ExecContainer, which differ in their first message only.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/berthd/berth/cli/terminal"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// ErrNoExit says that the stream ended without the exit status of the process.
var ErrNoExit = errors.New("the stream ended before the process")

// message is what the answers of both calls have in common.
type message interface {
	GetReady() *berthv1.StreamReady
	GetOutput() *berthv1.Output
	GetExit() *berthv1.Exit
}

// input is one thing that a client says once the process is connected; exactly one field is set.
type input struct {
	stdin []byte
	close bool
	size  *berthv1.TerminalSize
}

// Call is an open attach or exec.
type Call struct {
	receive func() (message, error)
	cancel  context.CancelFunc
	ready   *berthv1.StreamReady

	mu   sync.Mutex // one sender at a time
	send func(input) error
}

// Streams are the user's ends. In is nil where the process gets no input.
type Streams struct {
	In         io.Reader
	Out, Err   io.Writer
	DetachKeys []byte
}

// Attach connects to a container, which may not have been started yet, and returns once it is connected.
func Attach(ctx context.Context, client berthv1.ContainersServiceClient, start *berthv1.AttachStart) (*Call, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := client.AttachContainer(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	call := &Call{cancel: cancel, receive: func() (message, error) { return stream.Recv() }}
	call.send = func(in input) error {
		switch {
		case in.close:
			return stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_StdinClose{StdinClose: &berthv1.StdinClose{}}})
		case in.size != nil:
			return stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_Resize{Resize: in.size}})
		}
		return stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_Stdin{Stdin: in.stdin}})
	}
	// An error of Send only says that the stream has ended; Recv tells why.
	_ = stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_Start{Start: start}})
	return call.waitReady()
}

// Exec starts a process in a running container and returns once it runs.
func Exec(ctx context.Context, client berthv1.ContainersServiceClient, start *berthv1.ExecStart) (*Call, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := client.ExecContainer(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	call := &Call{cancel: cancel, receive: func() (message, error) { return stream.Recv() }}
	call.send = func(in input) error {
		switch {
		case in.close:
			return stream.Send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_StdinClose{StdinClose: &berthv1.StdinClose{}}})
		case in.size != nil:
			return stream.Send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Resize{Resize: in.size}})
		}
		return stream.Send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Stdin{Stdin: in.stdin}})
	}
	_ = stream.Send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Start{Start: start}})
	return call.waitReady()
}

func (c *Call) waitReady() (*Call, error) {
	first, err := c.receive()
	if err != nil {
		c.cancel()
		return nil, err
	}
	if c.ready = first.GetReady(); c.ready == nil {
		c.cancel()
		return nil, errors.New("berthd broke the protocol: the first message of a stream must be ready")
	}
	return c, nil
}

// Close leaves the process to itself. The call can't be used any more.
func (c *Call) Close() { c.cancel() }

// Resize tells the process's terminal its size.
func (c *Call) Resize(width, height int) error {
	return c.sendInput(input{size: &berthv1.TerminalSize{Width: uint32(width), Height: uint32(height)}})
}

func (c *Call) sendInput(in input) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.send(in)
}

// Pump moves bytes both ways until the process has exited and all its output is written, and returns its exit status.
// It returns terminal.ErrDetached if the user typed the detach keys, and ErrNoExit if the stream ended early.
//
// The goroutine that reads In may stay blocked there after Pump has returned: a read of a terminal can't be cancelled.
func (c *Call) Pump(streams Streams) (exitCode int, err error) {
	defer c.cancel()
	detached := make(chan struct{})
	if streams.In != nil {
		go c.pumpInput(streams, detached)
	}
	if c.ready.GetTty() {
		stop := c.followSize(streams.Out)
		defer stop()
	}
	for {
		received, err := c.receive()
		if err != nil {
			select {
			case <-detached:
				return 0, terminal.ErrDetached
			default:
			}
			if errors.Is(err, io.EOF) {
				return 0, ErrNoExit
			}
			return 0, err
		}
		if exit := received.GetExit(); exit != nil {
			return int(exit.GetCode()), nil
		}
		if err := writeOutput(streams, received.GetOutput()); err != nil {
			return 0, fmt.Errorf("cannot write the container's output: %w", err)
		}
	}
}

func writeOutput(streams Streams, output *berthv1.Output) error {
	to := streams.Out
	if output.GetStream() == berthv1.Stream_STREAM_STDERR {
		to = streams.Err
	}
	_, err := to.Write(output.GetData())
	return err
}

func (c *Call) pumpInput(streams Streams, detached chan<- struct{}) {
	source := streams.In
	if c.ready.GetTty() && len(streams.DetachKeys) > 0 {
		source = terminal.NewDetachReader(source, streams.DetachKeys)
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := source.Read(buffer)
		if n > 0 && c.sendInput(input{stdin: buffer[:n]}) != nil {
			return
		}
		switch {
		case errors.Is(err, terminal.ErrDetached):
			close(detached)
			c.cancel()
			return
		case err != nil:
			_ = c.sendInput(input{close: true})
			return
		}
	}
}

// followSize passes on each change of the size of the user's terminal.
func (c *Call) followSize(screen any) (stop func()) {
	resized, unsubscribe := terminal.Resizes()
	done := make(chan struct{})
	var owner sync.WaitGroup
	owner.Go(func() { c.sendSizes(screen, resized, done) })
	return func() {
		unsubscribe()
		close(done)
		owner.Wait()
	}
}

func (c *Call) sendSizes(screen any, resized <-chan os.Signal, done <-chan struct{}) {
	for {
		if width, height, ok := terminal.Size(screen); ok && c.Resize(width, height) != nil {
			return
		}
		select {
		case <-resized:
		case <-done:
			return
		}
	}
}
