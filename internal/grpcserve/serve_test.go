package grpcserve

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	reflectionapi "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/berthd/berth/internal/errdefs"
)

// patience bounds what a test waits for.
const patience = shutdownLimit / 2

// service has a unary method and a stream, which both tell that they were called, and end with the error that the test
// sends, or when their client is gone.
type service struct {
	called chan struct{}
	answer chan error
}

func newService() *service { return &service{called: make(chan struct{}), answer: make(chan error)} }

func (s *service) call(ctx context.Context) error {
	select {
	case s.called <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-s.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *service) register(r grpc.ServiceRegistrar) {
	Registrar(r).RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Service",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Unary",
			Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				if err := decode(&emptypb.Empty{}); err != nil {
					return nil, err
				}
				return &emptypb.Empty{}, srv.(*service).call(ctx)
			},
		}},
		Streams: []grpc.StreamDesc{{
			StreamName:    "Stream",
			ServerStreams: true,
			Handler:       func(srv any, stream grpc.ServerStream) error { return srv.(*service).call(stream.Context()) },
		}},
	}, s)
}

// unary and stream call the service and return what it ends with.
func unary(ctx context.Context, conn *grpc.ClientConn) error {
	return conn.Invoke(ctx, "/test.Service/Unary", &emptypb.Empty{}, &emptypb.Empty{})
}

func stream(ctx context.Context, conn *grpc.ClientConn) error {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Service/Stream")
	if err != nil {
		return err
	}
	return s.RecvMsg(&emptypb.Empty{})
}

// server is a service that is served.
type server struct {
	*service
	address string
	conn    *grpc.ClientConn
	stop    context.CancelFunc
	ended   chan error
}

func serve(t *testing.T) *server {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s := &server{service: newService(), address: filepath.Join(t.TempDir(), "new", "x.sock"), stop: stop, ended: make(chan error, 1)}
	go func() { s.ended <- Serve(ctx, s.address, slog.New(slog.DiscardHandler), s.register) }()
	conn, err := grpc.NewClient("unix://"+s.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	s.conn = conn
	t.Cleanup(func() {
		stop()
		_ = conn.Close()
	})
	return s
}

// expectEnd waits until Serve has returned.
func (s *server) expectEnd(t *testing.T) {
	t.Helper()
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("the server ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the server did not end")
	}
	if _, err := os.Lstat(s.address); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestErrorsLeaveWithTheirCode(t *testing.T) {
	s := serve(t)
	for name, call := range map[string]func(context.Context, *grpc.ClientConn) error{"unary": unary, "stream": stream} {
		ended := make(chan error, 1)
		go func() { ended <- call(limited(t), s.conn) }()
		<-s.called
		s.answer <- errdefs.As(errdefs.ErrAborted, errors.New("cannot go on"))
		if err := <-ended; status.Code(err) != codes.Aborted || status.Convert(err).Message() != "cannot go on" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	s.stop()
	s.expectEnd(t)
}

func TestHealthAndReflection(t *testing.T) {
	s := serve(t)
	for _, name := range []string{"", "test.Service"} {
		answer, err := healthapi.NewHealthClient(s.conn).Check(limited(t), &healthapi.HealthCheckRequest{Service: name})
		if err != nil || answer.GetStatus() != healthapi.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", name, answer, err)
		}
	}
	reflection, err := reflectionapi.NewServerReflectionClient(s.conn).ServerReflectionInfo(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	request := &reflectionapi.ServerReflectionRequest_ListServices{}
	if err := reflection.Send(&reflectionapi.ServerReflectionRequest{MessageRequest: request}); err != nil {
		t.Fatal(err)
	}
	answer, err := reflection.Recv()
	if err != nil || !strings.Contains(answer.String(), "test.Service") {
		t.Errorf("reflection: %v, %v", answer, err)
	}
}

// A server that is told to end lets the requests under way end, ends the streams of those who watch its health, and
// takes no more.
func TestGracefulEnd(t *testing.T) {
	s := serve(t)
	watch, err := healthapi.NewHealthClient(s.conn).Watch(limited(t), &healthapi.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- unary(limited(t), s.conn) }()
	<-s.called
	s.stop()
	last, err := watch.Recv()
	for state := last; err == nil; state, err = watch.Recv() {
		last = state
	}
	if status.Code(err) != codes.Unavailable || last.GetStatus() != healthapi.HealthCheckResponse_NOT_SERVING {
		t.Errorf("the watch of the health ended with %v, %v", last, err)
	}
	s.answer <- nil
	if err := <-ended; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	s.expectEnd(t)
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	listener, err := Listen(path, "no-such-group")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("mode %v, %v, want a socket with 0660", info.Mode(), err)
	}
	if _, err := Listen(path, Group); err == nil || !strings.Contains(err.Error(), "another process serves it") {
		t.Errorf("a socket in use: %v", err)
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the refused one has taken the socket away: %v", err)
	} else {
		_ = conn.Close()
	}
}

func TestSocketOfAKilledProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	listener, err := Listen(path, Group)
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                           "it exists and is not a socket",
		filepath.Join(file, "x"):       "not a directory",
		dir + strings.Repeat("x", 200): "invalid argument",
	} {
		_, err := Listen(path, Group)
		if err == nil || !strings.Contains(err.Error(), "cannot listen on") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", path, err, want)
		}
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("the file holds %q, %v", content, err)
	}
}

// When one of several sockets fails, the server ends with its error rather than serve on the others alone.
func TestAFailedListenerEndsTheServer(t *testing.T) {
	dir := t.TempDir()
	var listeners []net.Listener
	for _, name := range []string{"a", "b"} {
		listener, err := Listen(filepath.Join(dir, name), Group)
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, listener)
	}
	if err := listeners[0].Close(); err != nil {
		t.Fatal(err)
	}
	err := ServeListeners(limited(t), listeners, slog.New(slog.DiscardHandler), newService().register)
	if err == nil || !strings.Contains(err.Error(), "cannot serve: ") {
		t.Errorf("got %v", err)
	}
}

func TestPanicFailsItsCallOnly(t *testing.T) {
	s := &panicking{}
	address := filepath.Join(t.TempDir(), "sock")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, address, slog.New(slog.DiscardHandler), s.register) }()
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for range 2 {
		for name, call := range map[string]func(context.Context, *grpc.ClientConn) error{"unary": unary, "stream": stream} {
			limited, done := context.WithTimeout(t.Context(), patience)
			err := waitingForReady(limited, conn, call)
			done()
			if status.Code(err) != codes.Internal || strings.Contains(status.Convert(err).Message(), "\n") {
				t.Errorf("%s: got %v, want Internal and one line", name, err)
			}
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// waitingForReady makes a call when the server listens.
func waitingForReady(ctx context.Context, conn *grpc.ClientConn, call func(context.Context, *grpc.ClientConn) error) error {
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if state == connectivity.TransientFailure {
			conn.ResetConnectBackoff()
		}
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
	return call(ctx, conn)
}

// panicking is a service whose methods panic.
type panicking struct{}

func (s *panicking) register(r grpc.ServiceRegistrar) {
	Registrar(r).RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Service",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Unary",
			Handler:    func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error) { panic("unary") },
		}},
		Streams: []grpc.StreamDesc{{
			StreamName: "Stream", ServerStreams: true, Handler: func(any, grpc.ServerStream) error { panic("stream") },
		}},
	}, s)
}

// A handler that never returns does not keep the program from ending.
func TestShutdownLeavesAHandlerThatHangs(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	called := make(chan struct{})
	register := func(r grpc.ServiceRegistrar) {
		Registrar(r).RegisterService(&grpc.ServiceDesc{
			ServiceName: "test.Service", HandlerType: (*any)(nil),
			Methods: []grpc.MethodDesc{{
				MethodName: "Unary",
				Handler: func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error) {
					close(called)
					<-release
					return &emptypb.Empty{}, nil
				},
			}},
		}, &service{})
	}
	address := filepath.Join(t.TempDir(), "sock")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, address, slog.New(slog.DiscardHandler), register) }()
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	go func() { _ = waitingForReady(t.Context(), conn, unary) }()
	<-called
	cancel()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(shutdownLimit + patience):
		t.Fatal("the server waits for the handler")
	}
}
