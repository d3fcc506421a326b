package stores

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go w.ask(ctx, cancel)
	err := w.ClientConn.Invoke(ctx, method, request, response, options...)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return status.Errorf(codes.Unavailable, "the %s at %s does not answer", w.what, w.address)
	}
	return w.name(err)
}

// errSilent ends the calls of a store that does not answer.
var errSilent = errors.New("the store does not answer")

// askAfter is how long a call may take before the store is asked whether it works at all.
const askAfter = 5 * time.Second

// ask ends a call when the store does not answer anything any more, as one that was stopped. A call may take as long as its work
// does: the content of a large layer is not removed in a moment. A store without a health service answers that it has none.
func (w *watch) ask(ctx context.Context, cancel context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(askAfter):
		}
		limited, done := context.WithTimeout(ctx, checkTimeout)
		_, err := healthpb.NewHealthClient(w.ClientConn).Check(limited, &healthpb.HealthCheckRequest{})
		silent := status.Code(err) == codes.DeadlineExceeded && errors.Is(limited.Err(), context.DeadlineExceeded)
		done()
		if silent {
			cancel(errSilent)
			return
		}
	}
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
