package containers

import (
	"context"
	"errors"
	"io"
	"slices"

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

	run    *run
	stream *shims.Stream
	exit   func(context.Context) (int32, error)
}

// Attachment is a client's claim to the streams of a container's own process, from Attach to Close. Where there is no
// process yet, the next start takes it and resolves it, with a session or with an error, before that start ends:
//
//	waiting ── start opens the streams ──► taken ── process started ──► session
//	   └────────── start fails ───────────────┴───────────────────────► err
type Attachment struct {
	// TTY says that the process has a terminal, or will have.
	TTY bool

	container *container
	resolved  chan struct{} // closed when session or err is set

	// The container's mu guards the rest.
	stream  *shims.Stream // once a start has taken the attachment
	session *Session
	err     error
}

// clients are those of a container that are not connected to a process yet.
type clients struct {
	waiting  []*Attachment // for the next start
	starting *starting     // nil unless a start is under way
}

// starting is a start whose process does not run yet.
type starting struct {
	streams string        // socket of the process's streams; empty until the shim listens there
	taken   []*Attachment // resolved by this start, whatever becomes of it
}

// Attach claims the streams of a container's own process. If that has not been started yet, nothing of its output will
// be missed when it is. The caller closes the attachment.
func (s *Service) Attach(ref string) (*Attachment, error) {
	c, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.message.GetState().GetStatus() {
	case statusCreated, statusRunning, statusPaused, statusRestarting, statusExited:
	default:
		return nil, c.refuse("attach to")
	}
	a := &Attachment{TTY: c.message.GetProcess().GetTty(), container: c, resolved: make(chan struct{})}
	switch {
	case c.current != nil:
		a.stream, err = shims.OpenStream(s.streamPath(c.id, ""))
		if err == nil {
			a.resolve(c.session(c.current, a.stream), nil)
			return a, nil
		}
		if c.step != stepCleanUp {
			return nil, err
		}
		c.clients.waiting = append(c.clients.waiting, a) // the process has exited: the attachment is for the next
	case c.clients.starting != nil && c.clients.starting.streams != "":
		if a.stream, err = shims.OpenStream(c.clients.starting.streams); err != nil {
			return nil, err
		}
		c.clients.starting.taken = append(c.clients.starting.taken, a)
	default:
		c.clients.waiting = append(c.clients.waiting, a)
	}
	return a, nil
}

// Session waits until the process runs, and connects to it.
func (a *Attachment) Session(ctx context.Context) (*Session, error) {
	select {
	case <-a.resolved:
		return a.session, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close gives the claim back. A container that goes on does so without this client: streams that nobody reads would hold
// up the process.
func (a *Attachment) Close() {
	c := a.container
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clients.waiting = slices.DeleteFunc(c.clients.waiting, func(other *Attachment) bool { return other == a })
	if a.stream != nil {
		_ = a.stream.Close()
	}
}

// resolve ends the wait of an attachment, once. The caller holds the container's mu.
func (a *Attachment) resolve(session *Session, err error) {
	a.session, a.err = session, err
	if err != nil && a.stream != nil {
		_ = a.stream.Close()
	}
	close(a.resolved)
}

// beginStart opens the time in which attachments are for the process that is about to be started.
func (c *container) beginStart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clients.starting = &starting{}
}

// takeAttachments connects the clients that wait, before the process is started. A client that can't be connected is
// told so; it does not keep the others, or the process, from going on.
func (c *container) takeAttachments(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clients.starting.streams = path
	for _, a := range c.clients.waiting {
		stream, err := shims.OpenStream(path)
		if err != nil {
			a.resolve(nil, err)
			continue
		}
		a.stream = stream
		c.clients.starting.taken = append(c.clients.starting.taken, a)
	}
	c.clients.waiting = nil
}

// connectAttachments makes a run current and gives the clients that its start has taken their sessions.
func (c *container) connectAttachments(current *run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = current
	if c.clients.starting == nil {
		return
	}
	for _, a := range c.clients.starting.taken {
		a.resolve(c.session(current, a.stream), nil)
	}
	c.clients.starting = nil
}

// failAttachments tells all who wait for a process that there will be none.
func (c *container) failAttachments(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	failed := c.clients.waiting
	if c.clients.starting != nil {
		failed = append(failed, c.clients.starting.taken...)
	}
	for _, a := range failed {
		a.resolve(nil, cause)
	}
	c.clients.waiting, c.clients.starting = nil, nil
}

// session is a connection to the streams of a run. The caller holds c.mu.
func (c *container) session(current *run, stream *shims.Stream) *Session {
	process := c.message.GetProcess()
	return &Session{
		TTY: process.GetTty(), StdinOnce: process.GetStdinOnce(), run: current, stream: stream,
		exit: func(ctx context.Context) (int32, error) {
			select {
			case <-current.done:
				return current.code, nil
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
	return s.run.task().Resize(ctx, s.ExecID, size.GetWidth(), size.GetHeight())
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
