package grpcstatus

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/internal/errdefs"
)

func TestThereAndBack(t *testing.T) {
	for _, class := range []error{errdefs.ErrNotFound, errdefs.ErrResourceExhausted, errdefs.ErrDataLoss, context.Canceled} {
		sent := errdefs.As(class, errors.New("one sentence"))
		arrived := Error(status.Error(Code(fmt.Errorf("%w", sent)), sent.Error()))
		if !errors.Is(arrived, class) || arrived.Error() != "one sentence" {
			t.Errorf("%v arrives as %v", class, arrived)
		}
	}
}

func TestNoClass(t *testing.T) {
	plain := errors.New("plain")
	if got := Code(plain); got != codes.Unknown {
		t.Errorf("code %v", got)
	}
	if got := Error(plain); !errors.Is(got, plain) || got.Error() != plain.Error() {
		t.Errorf("an error that is no status becomes %v", got)
	}
	if Error(nil) != nil {
		t.Error("nil does not stay nil")
	}
	if got := Error(status.Error(codes.Internal, "broken")); got.Error() != "broken" {
		t.Errorf("a status of no class becomes %v", got)
	}
}
