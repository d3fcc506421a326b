// Package server answers berth.v1 over gRPC. Its methods translate between messages and the packages that do the work;
// there is one file for each service.
package server

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/grpcserve"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Services are all that the daemon offers.
type Services struct {
	Containers *Containers
	Images     *Images
	Networks   *Networks
	Volumes    *Volumes
	System     *System
	Events     *Events
}

// Register registers the services with r. Calls that still wait when running ends are answered with Unavailable.
func (s Services) Register(running context.Context, r grpc.ServiceRegistrar) {
	r = endingWith{running, grpcserve.Registrar(r)}
	berthv1.RegisterContainersServiceServer(r, s.Containers)
	berthv1.RegisterImagesServiceServer(r, s.Images)
	berthv1.RegisterNetworksServiceServer(r, s.Networks)
	berthv1.RegisterVolumesServiceServer(r, s.Volumes)
	berthv1.RegisterSystemServiceServer(r, s.System)
	berthv1.RegisterEventsServiceServer(r, s.Events)
	berthv1.RegisterSandboxesServiceServer(r, berthv1.UnimplementedSandboxesServiceServer{})
}

// endingWith ends the context of each call when the daemon ends, and says so.
type endingWith struct {
	running context.Context
	next    grpc.ServiceRegistrar
}

// RegisterService implements grpc.ServiceRegistrar.
func (e endingWith) RegisterService(desc *grpc.ServiceDesc, service any) {
	wrapped := *desc
	wrapped.Methods = nil
	for _, method := range desc.Methods {
		handle := method.Handler
		method.Handler = func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			ctx, cancel := e.context(ctx)
			defer cancel()
			reply, err := handle(srv, ctx, decode, interceptor)
			return reply, e.explain(err)
		}
		wrapped.Methods = append(wrapped.Methods, method)
	}
	wrapped.Streams = nil
	for _, stream := range desc.Streams {
		handle := stream.Handler
		stream.Handler = func(srv any, call grpc.ServerStream) error {
			ctx, cancel := e.context(call.Context())
			defer cancel()
			return e.explain(handle(srv, endingStream{call, ctx}))
		}
		wrapped.Streams = append(wrapped.Streams, stream)
	}
	e.next.RegisterService(&wrapped, service)
}

func (e endingWith) context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(e.running, cancel)
	return ctx, func() { stop(); cancel() }
}

func (e endingWith) explain(err error) error {
	if err != nil && e.running.Err() != nil && errors.Is(err, context.Canceled) {
		return errdefs.As(errdefs.ErrUnavailable, errors.New("berthd is shutting down: call again when it is back"))
	}
	return err
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s endingStream) Context() context.Context { return s.ctx }
