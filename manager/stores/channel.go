package stores

import (
	"context"
	"io"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/berthd/berth/internal/grpcserve"
)

// channel is a gRPC connection to services of this process: what a client sends is copied and handed to the service's
// method, without HTTP/2 and without encoding. Metadata, deadlines, cancellation, streams and status codes behave as
// on the wire; a client must not be able to tell the difference.
type channel struct {
	services map[string]registered
}

type registered struct {
	description *grpc.ServiceDesc
	service     any
}

func newChannel() *channel { return &channel{services: map[string]registered{}} }

// RegisterService adds a service. All are added before the first call.
func (c *channel) RegisterService(description *grpc.ServiceDesc, service any) {
	c.services[description.ServiceName] = registered{description, service}
}

// Invoke calls a method with one request and one response.
func (c *channel) Invoke(ctx context.Context, method string, request, response any, _ ...grpc.CallOption) error {
	target, name, err := c.find(method)
	if err != nil {
		return err
	}
	for _, candidate := range target.description.Methods {
		if candidate.MethodName != name {
			continue
		}
		decode := func(message any) error { return copyMessage(message, request) }
		answer, err := candidate.Handler(target.service, incoming(ctx), decode, nil)
		if err != nil {
			return grpcserve.Status(err)
		}
		return copyMessage(response, answer)
	}
	return status.Errorf(codes.Unimplemented, "unknown method %s", method)
}

// NewStream calls a method with streams.
func (c *channel) NewStream(ctx context.Context, description *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	target, name, err := c.find(method)
	if err != nil {
		return nil, err
	}
	for _, candidate := range target.description.Streams {
		if candidate.StreamName == name {
			return startStream(ctx, description, func(stream grpc.ServerStream) error {
				return candidate.Handler(target.service, stream)
			}), nil
		}
	}
	return nil, status.Errorf(codes.Unimplemented, "unknown method %s", method)
}

func (c *channel) find(method string) (registered, string, error) {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	target, found := c.services[service]
	if !found {
		return registered{}, "", status.Errorf(codes.Unimplemented, "unknown service %s", service)
	}
	return target, name, nil
}

// incoming turns what the client sends along with a call into what the service receives.
func incoming(ctx context.Context) context.Context {
	sent, _ := metadata.FromOutgoingContext(ctx)
	return metadata.NewIncomingContext(ctx, sent)
}

func copyMessage(target, source any) error {
	to, okTo := target.(proto.Message)
	from, okFrom := source.(proto.Message)
	if !okTo || !okFrom {
		return status.Errorf(codes.Internal, "cannot copy %T to %T: not messages", source, target)
	}
	proto.Reset(to)
	proto.Merge(to, from)
	return nil
}

// call is one streaming call; its two ends are clientStream and serverStream. Messages are handed over one by one:
// a sender goes on when the other side has taken its message, so none is on its way when the method returns.
type call struct {
	ctx                context.Context
	cancel             context.CancelFunc
	requests           chan proto.Message
	responses          chan proto.Message
	requestsEnd        chan struct{} // closed when the client has sent all
	endRequests        func()
	finished           chan struct{} // closed when the method has returned err
	err                error
	manyFromServer     bool
	clientGotSomething bool
}

func startStream(ctx context.Context, description *grpc.StreamDesc, method func(grpc.ServerStream) error) *clientStream {
	ctx, cancel := context.WithCancel(ctx)
	c := &call{
		ctx: ctx, cancel: cancel, manyFromServer: description.ServerStreams,
		requests: make(chan proto.Message), responses: make(chan proto.Message),
		requestsEnd: make(chan struct{}), finished: make(chan struct{}),
	}
	c.endRequests = sync.OnceFunc(func() { close(c.requestsEnd) })
	go func() {
		defer cancel()
		defer close(c.finished)
		c.err = grpcserve.Status(method(&serverStream{call: c, ctx: incoming(ctx)}))
	}()
	return &clientStream{c}
}

func clone(message any) (proto.Message, error) {
	source, ok := message.(proto.Message)
	if !ok {
		return nil, status.Errorf(codes.Internal, "cannot send %T: not a message", message)
	}
	return proto.Clone(source), nil
}

type clientStream struct{ *call }

func (s *clientStream) Header() (metadata.MD, error) { return nil, nil }
func (s *clientStream) Trailer() metadata.MD         { return nil }
func (s *clientStream) Context() context.Context     { return s.ctx }

func (s *clientStream) CloseSend() error {
	s.endRequests()
	return nil
}

func (s *clientStream) SendMsg(message any) error {
	copied, err := clone(message)
	if err != nil {
		return err
	}
	select {
	case s.requests <- copied:
		return nil
	case <-s.finished:
		return io.EOF // as on the wire: RecvMsg tells why
	case <-s.ctx.Done():
	}
	// The end of the method ends the context too: prefer what the method said.
	select {
	case <-s.finished:
		return io.EOF
	default:
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

func (s *clientStream) RecvMsg(message any) error {
	select {
	case response := <-s.responses:
		if err := copyMessage(message, response); err != nil {
			return err
		}
		if !s.manyFromServer {
			s.clientGotSomething = true
			<-s.finished
			return s.err
		}
		return nil
	case <-s.finished:
	case <-s.ctx.Done():
		// The end of the method ends the context too: prefer what the method said.
		select {
		case <-s.finished:
		default:
			return status.FromContextError(s.ctx.Err()).Err()
		}
	}
	if s.err != nil {
		return s.err
	}
	if !s.manyFromServer && !s.clientGotSomething {
		return status.Error(codes.Internal, "the method ended without a response")
	}
	return io.EOF
}

type serverStream struct {
	*call
	ctx context.Context
}

func (s *serverStream) Context() context.Context     { return s.ctx }
func (s *serverStream) SetHeader(metadata.MD) error  { return nil }
func (s *serverStream) SendHeader(metadata.MD) error { return nil }
func (s *serverStream) SetTrailer(metadata.MD)       {}

func (s *serverStream) SendMsg(message any) error {
	copied, err := clone(message)
	if err != nil {
		return err
	}
	select {
	case s.responses <- copied:
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

func (s *serverStream) RecvMsg(message any) error {
	select {
	case request := <-s.requests:
		return copyMessage(message, request)
	case <-s.requestsEnd:
		return io.EOF
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}
