// Package grpcserve is what every gRPC server of ours shares: errors that leave with their canonical code whichever
// server a service is registered with, and the frame of a stand-alone program on a unix socket.
package grpcserve

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/internal/grpcstatus"
	"github.com/berthd/berth/internal/panics"
)

// Registrar registers services with r so that their methods' errors leave as Status makes them. A method that panics fails
// with codes.Internal and its stack is logged: all other calls, of this client and of others, go on.
func Registrar(r grpc.ServiceRegistrar) grpc.ServiceRegistrar {
	return registrar{r}
}

type registrar struct{ next grpc.ServiceRegistrar }

func (r registrar) RegisterService(desc *grpc.ServiceDesc, service any) {
	mapped := *desc
	mapped.Methods = nil
	for _, m := range desc.Methods {
		handle, name := m.Handler, desc.ServiceName+"/"+m.MethodName
		m.Handler = func(srv any, ctx context.Context, dec func(any) error, in grpc.UnaryServerInterceptor) (_ any, err error) {
			defer func() { err = Status(err) }()
			defer panics.Recover(slog.Default(), name, &err)
			return handle(srv, ctx, dec, in)
		}
		mapped.Methods = append(mapped.Methods, m)
	}
	mapped.Streams = nil
	for _, s := range desc.Streams {
		handle, name := s.Handler, desc.ServiceName+"/"+s.StreamName
		s.Handler = func(srv any, stream grpc.ServerStream) (err error) {
			defer func() { err = Status(err) }()
			defer panics.Recover(slog.Default(), name, &err)
			return handle(srv, stream)
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
	return status.Error(code(err), Sentence(err))
}

// Sentence is the text of err on one line: errors.Join puts each of several on a line of its own, which clients and logs
// would take for several messages.
func Sentence(err error) string {
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// code is that of the class, or else of what the system says.
func code(err error) codes.Code {
	if class := grpcstatus.Code(err); class != codes.Unknown {
		return class
	}
	if fault := (panics.Error{}); errors.As(err, &fault) {
		return codes.Internal
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return codes.ResourceExhausted
	case errors.Is(err, fs.ErrPermission):
		return codes.PermissionDenied
	}
	return codes.Unknown
}
