package containers

import (
	"context"
	"errors"
	"io"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/shims"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Session is a client's connection to the streams of a process.
type Session struct {
	// TTY says that the process has a terminal, StdinOnce that its input ends with the client's.
	TTY, StdinOnce bool
	// ExecID and Pid are of a process that Exec added.
	ExecID string
	Pid    uint32

	task   *shims.Task
	stream *shims.Stream
	exit   func(context.Context) (int32, error)
}

// attachment is an Attach that waits for its container to be started.
type attachment struct {
	connected chan struct{} // closed when one of the fields below is set
	stream    *shims.Stream
	err       error
}

// Attach prepares to connect to a container's own process. If that has not been started yet, nothing will be missed
// when it is. connect blocks until there is a process.
func (s *Service) Attach(ref string) (tty bool, connect func(context.Context) (*Session, error), err error) {
	c, err := s.find(ref)
	if err != nil {
		return false, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	tty = c.message.GetProcess().GetTty()
	switch c.message.GetState().GetStatus() {
	case statusRemoving, statusDead:
		return false, nil, c.refuse("attach to")
	case statusRunning, statusPaused:
		if current := c.current; current != nil {
			stream, err := shims.OpenStream(s.streams(c.id, "", c.message.GetSpec()).Path)
			if err != nil {
				return false, nil, err
			}
			return tty, func(context.Context) (*Session, error) { return s.session(c, current, stream), nil }, nil
		}
	}
	waiting := &attachment{connected: make(chan struct{})}
	c.waiting = append(c.waiting, waiting)
	return tty, func(ctx context.Context) (*Session, error) { return s.connectLater(ctx, c, waiting) }, nil
}

func (s *Service) connectLater(ctx context.Context, c *container, waiting *attachment) (*Session, error) {
	select {
	case <-waiting.connected:
	case <-ctx.Done():
		c.abandon(waiting)
		return nil, ctx.Err()
	}
	if waiting.err != nil {
		return nil, waiting.err
	}
	var current *run
	err := c.await(ctx, func() bool {
		current = c.current
		return current != nil || c.step != stepStart
	})
	if err != nil || current == nil {
		return nil, errors.Join(err, waiting.stream.Close())
	}
	return s.session(c, current, waiting.stream), nil
}

// abandon takes back an attachment whose client has gone away.
func (c *container) abandon(waiting *attachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, other := range c.waiting {
		if other == waiting {
			c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
			return
		}
	}
	if waiting.stream != nil {
		_ = waiting.stream.Close()
	}
}

// connectAttachments connects those who wait, before the process is started.
func (c *container) connectAttachments(path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, waiting := range c.waiting {
		stream, err := shims.OpenStream(path)
		if err != nil {
			return err
		}
		waiting.stream = stream
		close(waiting.connected)
	}
	c.waiting = nil
	return nil
}

// failAttachments tells those who wait that there will be no process.
func (c *container) failAttachments(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, waiting := range c.waiting {
		waiting.err = cause
		close(waiting.connected)
	}
	c.waiting = nil
}

func (s *Service) session(c *container, current *run, stream *shims.Stream) *Session {
	process := c.snapshot().GetProcess()
	return &Session{
		TTY: process.GetTty(), StdinOnce: process.GetStdinOnce(), task: current.task(), stream: stream,
		exit: func(ctx context.Context) (int32, error) {
			select {
			case <-current.done:
				return c.snapshot().GetState().GetExitCode(), nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		},
	}
}

// Read returns the next piece of output. io.EOF: the process has ended, and all its output was read.
func (s *Session) Read() (berthv1.Stream, []byte, error) {
	number, data, err := s.stream.Read()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			err = errdefs.As(errdefs.ErrUnavailable, err)
		}
		return 0, nil, err
	}
	if number == shims.Stderr {
		return berthv1.Stream_STREAM_STDERR, data, nil
	}
	return berthv1.Stream_STREAM_STDOUT, data, nil
}

// Write sends input to the process.
func (s *Session) Write(data []byte) error {
	_, err := s.stream.Write(data)
	return err
}

// EndInput says that the client has no more input. The process's goes on unless it is of this client only.
func (s *Session) EndInput() error {
	if !s.StdinOnce {
		return nil
	}
	return s.stream.EndInput()
}

// Resize sets the size of the process's terminal.
func (s *Session) Resize(ctx context.Context, size *berthv1.TerminalSize) error {
	return s.task.Resize(ctx, s.ExecID, size.GetWidth(), size.GetHeight())
}

// Exit waits for the end of the process and answers its exit code.
func (s *Session) Exit(ctx context.Context) (int32, error) { return s.exit(ctx) }

// Close leaves the process to itself.
func (s *Session) Close() {
	if s.stream != nil {
		_ = s.stream.Close()
	}
}

// Resize sets the size of the terminal of a container, or of one of its execs.
func (s *Service) Resize(ctx context.Context, ref, execID string, size *berthv1.TerminalSize) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	current, err := c.running("resize the terminal of")
	if err != nil {
		return err
	}
	if execID != "" {
		if _, err := c.execution(execID); err != nil {
			return err
		}
	}
	return current.task().Resize(ctx, execID, size.GetWidth(), size.GetHeight())
}
