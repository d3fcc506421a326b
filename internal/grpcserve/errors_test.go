package grpcserve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/internal/errdefs"
)

func TestStatus(t *testing.T) {
	for want, causes := range map[codes.Code][]error{
		codes.NotFound:           {errdefs.ErrNotFound},
		codes.AlreadyExists:      {errdefs.ErrAlreadyExists},
		codes.InvalidArgument:    {errdefs.ErrInvalidArgument},
		codes.FailedPrecondition: {errdefs.ErrFailedPrecondition},
		codes.Unavailable:        {errdefs.ErrUnavailable},
		codes.Unimplemented:      {errdefs.ErrUnimplemented},
		codes.PermissionDenied:   {errdefs.ErrPermissionDenied, &os.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, syscall.EPERM},
		codes.Unauthenticated:    {errdefs.ErrUnauthenticated},
		codes.Aborted:            {errdefs.ErrAborted},
		codes.DataLoss:           {errdefs.ErrDataLoss},
		codes.ResourceExhausted: {
			errdefs.ErrResourceExhausted, &os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, syscall.EDQUOT, syscall.EFBIG,
		},
		codes.Canceled:         {context.Canceled},
		codes.DeadlineExceeded: {context.DeadlineExceeded},
		codes.Unknown:          {errors.New("boom"), os.ErrNotExist},
	} {
		for _, cause := range causes {
			err := fmt.Errorf("cannot remove %q: %w", "x", cause)
			got, ok := status.FromError(Status(err))
			if !ok || got.Code() != want || got.Message() != err.Error() {
				t.Errorf("%v: got %v, want code %v", err, got, want)
			}
		}
	}
}

func TestStatusLeavesAlone(t *testing.T) {
	if err := Status(nil); err != nil {
		t.Errorf("no error became %v", err)
	}
	before := status.Error(codes.OutOfRange, "too far")
	if got := Status(before); got != before { //nolint:errorlint // the very same value
		t.Errorf("%v became %v", before, got)
	}
	// What a service passes on from another one keeps that one's code, whatever it wraps it in.
	if got := status.Code(Status(fmt.Errorf("cannot pull: %w", before))); got != codes.OutOfRange {
		t.Errorf("a wrapped status became %v", got)
	}
	// The class that was given deliberately counts, not the system's error below it.
	if got := status.Code(Status(errdefs.As(errdefs.ErrNotFound, syscall.EACCES))); got != codes.NotFound {
		t.Errorf("a classified error became %v", got)
	}
}
