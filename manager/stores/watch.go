package stores

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// watch is a connection that names the store in the errors of calls that did not reach it. gRPC's own sentence would pass
// through berthd, and its client would take it for a lost connection to berthd.
type watch struct {
	*grpc.ClientConn
	what, address string
}

// Invoke is ClientConn's.
func (w *watch) Invoke(ctx context.Context, method string, request, response any, options ...grpc.CallOption) error {
	return w.name(w.ClientConn.Invoke(ctx, method, request, response, options...))
}

// NewStream is ClientConn's.
func (w *watch) NewStream(ctx context.Context, d *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := w.ClientConn.NewStream(ctx, d, method, options...)
	if err != nil {
		return nil, w.name(err)
	}
	return &watchedStream{stream, w}, nil
}

type watchedStream struct {
	grpc.ClientStream
	watch *watch
}

func (s *watchedStream) SendMsg(message any) error {
	return s.watch.name(s.ClientStream.SendMsg(message))
}

func (s *watchedStream) RecvMsg(message any) error {
	return s.watch.name(s.ClientStream.RecvMsg(message))
}

// name replaces the sentence of a broken connection. What the store itself says stays, also that it is unavailable.
func (w *watch) name(err error) error {
	if err == nil || errors.Is(err, io.EOF) || status.Code(err) != codes.Unavailable {
		return err
	}
	text := status.Convert(err).Message()
	for _, sign := range []string{"connection error", "error reading from server", "transport is closing", "closing transport"} {
		if !strings.Contains(text, sign) {
			continue
		}
		cause := "the connection broke"
		if _, refused, found := strings.Cut(text, "connect: "); found {
			cause = strings.TrimRight(refused, `"\`)
		}
		return status.Errorf(codes.Unavailable, "the %s at %s is not reachable: %s", w.what, w.address, cause)
	}
	return err
}
