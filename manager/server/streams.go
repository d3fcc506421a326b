package server

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/panics"
	"github.com/berthd/berth/manager/containers"
	"github.com/berthd/berth/manager/logs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// StreamLogs sends what a container has logged.
func (s *Containers) StreamLogs(r *berthv1.StreamLogsRequest, stream berthv1.ContainersService_StreamLogsServer) error {
	query := logs.Query{
		Follow: r.GetFollow(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Since: asTime(r.GetSince()), Until: asTime(r.GetUntil()), Tail: -1,
	}
	if r.Tail != nil {
		query.Tail = int64(r.GetTail())
	}
	return s.containers.Logs(stream.Context(), r.GetContainer(), query, func(line logs.Line) error {
		return stream.Send(&berthv1.StreamLogsResponse{Stream: line.Stream, Time: timestamppb.New(line.Time), Line: line.Text})
	})
}

// clientMessage is what the requests of attach and exec have in common.
type clientMessage interface {
	GetStdin() []byte
	GetStdinClose() *berthv1.StdinClose
	GetResize() *berthv1.TerminalSize
}

// replies are the answers of attach and exec, which differ in their type only.
type replies struct {
	ready  func(*berthv1.StreamReady) error
	output func(*berthv1.Output) error
	exit   func(*berthv1.Exit) error
}

// AttachContainer connects a client to a container's own process.
func (s *Containers) AttachContainer(stream berthv1.ContainersService_AttachContainerServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return errFirstMessage()
	}
	send := replies{
		ready: func(m *berthv1.StreamReady) error {
			return stream.Send(&berthv1.AttachContainerResponse{Message: &berthv1.AttachContainerResponse_Ready{Ready: m}})
		},
		output: func(m *berthv1.Output) error {
			return stream.Send(&berthv1.AttachContainerResponse{Message: &berthv1.AttachContainerResponse_Output{Output: m}})
		},
		exit: func(m *berthv1.Exit) error {
			return stream.Send(&berthv1.AttachContainerResponse{Message: &berthv1.AttachContainerResponse_Exit{Exit: m}})
		},
	}
	attachment, err := s.containers.Attach(start.GetContainer())
	if err != nil {
		return err
	}
	s.containers.Announce(start.GetContainer(), "attach")
	defer attachment.Close()
	if err := send.ready(&berthv1.StreamReady{Tty: attachment.TTY}); err != nil {
		return err
	}
	if start.GetLogs() {
		if err := s.sendPast(stream.Context(), start, send.output); err != nil {
			return err
		}
	}
	session, err := attachment.Session(stream.Context())
	if err != nil {
		return err
	}
	return pump(stream.Context(), session, start, send, func() (clientMessage, error) { return stream.Recv() })
}

// sendPast sends what was logged before.
func (s *Containers) sendPast(ctx context.Context, start *berthv1.AttachStart, send func(*berthv1.Output) error) error {
	query := logs.Query{Stdout: start.GetStdout(), Stderr: start.GetStderr(), Tail: -1}
	return s.containers.Logs(ctx, start.GetContainer(), query, func(line logs.Line) error {
		return send(&berthv1.Output{Stream: line.Stream, Data: line.Text})
	})
}

// ExecContainer runs another process in a container.
func (s *Containers) ExecContainer(stream berthv1.ContainersService_ExecContainerServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return errFirstMessage()
	}
	session, err := s.containers.Exec(stream.Context(), start)
	if err != nil {
		return commandStatus(err)
	}
	defer session.Close()
	send := replies{
		ready: func(m *berthv1.StreamReady) error {
			return stream.Send(&berthv1.ExecContainerResponse{Message: &berthv1.ExecContainerResponse_Ready{Ready: m}})
		},
		output: func(m *berthv1.Output) error {
			return stream.Send(&berthv1.ExecContainerResponse{Message: &berthv1.ExecContainerResponse_Output{Output: m}})
		},
		exit: func(m *berthv1.Exit) error {
			return stream.Send(&berthv1.ExecContainerResponse{Message: &berthv1.ExecContainerResponse_Exit{Exit: m}})
		},
	}
	if err := send.ready(&berthv1.StreamReady{Tty: session.TTY, ExecId: session.ExecID, Pid: session.Pid}); err != nil || start.GetDetach() {
		return err
	}
	wanted := &berthv1.AttachStart{Stdin: start.GetProcess().GetStdin(), Stdout: start.GetStdout(), Stderr: start.GetStderr()}
	return pump(stream.Context(), session, wanted, send, func() (clientMessage, error) { return stream.Recv() })
}

func errFirstMessage() error {
	return errdefs.As(errdefs.ErrInvalidArgument, errors.New("the first message of the stream must be start"))
}

// pump moves bytes both ways until the process has ended and its output is drained, or the client has gone away.
func pump(ctx context.Context, session *containers.Session, wanted *berthv1.AttachStart, send replies, receive func() (clientMessage, error)) error {
	// When the call ends, its context does, and with that the reading of what the client sends.
	go func() {
		defer panics.Recover(slog.Default(), "the input of a client", nil)
		takeInput(ctx, session, wanted.GetStdin(), receive)
	}()
	stop := context.AfterFunc(ctx, session.Close) // ends a Read that waits
	defer stop()
	for {
		stream, data, err := session.Read()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if stream == berthv1.Stream_STREAM_STDOUT && !wanted.GetStdout() || stream == berthv1.Stream_STREAM_STDERR && !wanted.GetStderr() {
			continue
		}
		if err := send.output(&berthv1.Output{Stream: stream, Data: data}); err != nil {
			return err
		}
	}
	code, err := session.Exit(ctx)
	if err != nil {
		return err
	}
	return send.exit(&berthv1.Exit{Code: code})
}

// takeInput passes on what the client sends. Errors end nothing: a process may close its input and go on writing.
func takeInput(ctx context.Context, session *containers.Session, stdin bool, receive func() (clientMessage, error)) {
	for {
		message, err := receive()
		if err != nil {
			return // the client has gone away, or will say no more; its input ends by stdin_close only
		}
		switch {
		case message.GetResize() != nil:
			_ = session.Resize(ctx, message.GetResize())
		case !stdin:
		case message.GetStdinClose() != nil:
			_ = session.EndInput()
		case len(message.GetStdin()) > 0:
			_ = session.Write(message.GetStdin())
		}
	}
}

// StatsContainers streams what containers use.
func (s *Containers) StatsContainers(r *berthv1.StatsContainersRequest, stream berthv1.ContainersService_StatsContainersServer) error {
	return s.containers.Stats(stream.Context(), r.GetContainers(), r.GetOneShot(), stream.Send)
}
