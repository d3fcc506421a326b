package grpcserve

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// healthServer is gRPC's, but for watching: gRPC's goes on until the client leaves, and the server's end would wait
// for that.
type healthServer struct {
	*health.Server
	ending chan struct{} // closed when the server ends
}

// registerHealth registers a health service that says that all services of server serve.
func registerHealth(server *grpc.Server) *healthServer {
	h := &healthServer{Server: health.NewServer(), ending: make(chan struct{})}
	for name := range server.GetServiceInfo() {
		h.SetServingStatus(name, healthapi.HealthCheckResponse_SERVING)
	}
	healthapi.RegisterHealthServer(server, h)
	return h
}

// end tells clients that nothing is served any more, and ends the streams of those who watch.
func (h *healthServer) end() {
	h.Shutdown()
	close(h.ending)
}

// Watch implements healthapi.HealthServer.
func (h *healthServer) Watch(request *healthapi.HealthCheckRequest, stream healthapi.Health_WatchServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	var watched error
	left := make(chan struct{})
	go func() {
		defer close(left)
		watched = h.Server.Watch(request, watchStream{stream, ctx})
	}()
	select {
	case <-left:
		return watched
	case <-h.ending:
	}
	cancel()
	<-left // before the stream is sent to from here
	if err := stream.Send(&healthapi.HealthCheckResponse{Status: healthapi.HealthCheckResponse_NOT_SERVING}); err != nil {
		return err
	}
	return status.Error(codes.Unavailable, "the server is shutting down")
}

// watchStream is a stream with a context of its own.
type watchStream struct {
	healthapi.Health_WatchServer
	ctx context.Context //nolint:containedctx // what Context returns
}

// Context implements grpc.ServerStream.
func (s watchStream) Context() context.Context { return s.ctx }
