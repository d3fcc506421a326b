package unpack

import (
	"context"
	"testing"
	"testing/synctest"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// stoppedSnapshotter accepts the making of a snapshot and never answers.
type stoppedSnapshotter struct{ snapshotsapi.SnapshotsClient }

func (stoppedSnapshotter) Stat(context.Context, *snapshotsapi.StatSnapshotRequest, ...grpc.CallOption) (*snapshotsapi.StatSnapshotResponse, error) {
	return nil, status.Error(codes.NotFound, "it does not exist")
}

func (stoppedSnapshotter) Prepare(ctx context.Context, _ *snapshotsapi.PrepareSnapshotRequest, _ ...grpc.CallOption) (*snapshotsapi.PrepareSnapshotResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestUnpackEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		u := &Unpacker{Snapshots: stoppedSnapshotter{}, Limits: DefaultLimits()}
		ended := make(chan error, 1)
		go func() {
			_, err := u.Unpack(ctx, Layer{DiffID: digest.FromString("layer")})
			ended <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-ended; err == nil {
			t.Error("no error")
		}
	})
}
