// Package grpcserve is what every gRPC server of ours shares: errors that leave with their canonical code whichever
// server a service is registered with, and the frame of a stand-alone program on a unix socket.
package grpcserve

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/internal/grpcstatus"
)

// Registrar registers services with r so that their methods' errors leave as Status makes them.
func Registrar(r grpc.ServiceRegistrar) grpc.ServiceRegistrar {
	return registrar{r}
}

type registrar struct{ next grpc.ServiceRegistrar }

func (r registrar) RegisterService(desc *grpc.ServiceDesc, service any) {
	mapped := *desc
	mapped.Methods = nil
	for _, m := range desc.Methods {
		handle := m.Handler
		m.Handler = func(srv any, ctx context.Context, dec func(any) error, in grpc.UnaryServerInterceptor) (any, error) {
			reply, err := handle(srv, ctx, dec, in)
			return reply, Status(err)
		}
		mapped.Methods = append(mapped.Methods, m)
	}
	mapped.Streams = nil
	for _, s := range desc.Streams {
		handle := s.Handler
		s.Handler = func(srv any, stream grpc.ServerStream) error {
			return Status(handle(srv, stream))
		}
		mapped.Streams = append(mapped.Streams, s)
	}
	r.next.RegisterService(&mapped, service)
}

// Status returns err as a gRPC status with the code of its class and its own text. An error that is a status already
// stays as it is, and nil stays nil.
func Status(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(code(err), err.Error())
}

// code is that of the class, or else of what the system says.
func code(err error) codes.Code {
	if class := grpcstatus.Code(err); class != codes.Unknown {
		return class
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return codes.ResourceExhausted
	case errors.Is(err, fs.ErrPermission):
		return codes.PermissionDenied
	}
	return codes.Unknown
}
