// Package grpcstatus turns errors of the classes of errdefs into statuses, which is how they cross gRPC and ttrpc, and back.
package grpcstatus

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/internal/errdefs"
)

type pair struct {
	class error
	code  codes.Code
}

func pairs() []pair {
	return []pair{
		{errdefs.ErrNotFound, codes.NotFound},
		{errdefs.ErrAlreadyExists, codes.AlreadyExists},
		{errdefs.ErrInvalidArgument, codes.InvalidArgument},
		{errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
		{errdefs.ErrUnavailable, codes.Unavailable},
		{errdefs.ErrUnimplemented, codes.Unimplemented},
		{errdefs.ErrPermissionDenied, codes.PermissionDenied},
		{errdefs.ErrUnauthenticated, codes.Unauthenticated},
		{errdefs.ErrAborted, codes.Aborted},
		{errdefs.ErrDataLoss, codes.DataLoss},
		{errdefs.ErrResourceExhausted, codes.ResourceExhausted},
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
	}
}

// Code returns the code of err's class, and codes.Unknown for an error of none.
func Code(err error) codes.Code {
	for _, p := range pairs() {
		if errors.Is(err, p.class) {
			return p.code
		}
	}
	return codes.Unknown
}

// Error turns a status into an error of its class with the status's sentence alone. What is no status stays as it is.
func Error(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	sentence := errors.New(s.Message())
	for _, p := range pairs() {
		if p.code == s.Code() {
			return errdefs.As(p.class, sentence)
		}
	}
	return sentence
}
