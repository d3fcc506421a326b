package images

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"

	"github.com/berthd/berth/manager/gc"
)

// stoppedSnapshotter answers nothing.
type stoppedSnapshotter struct{ snapshotsapi.SnapshotsClient }

func (stoppedSnapshotter) List(ctx context.Context, _ *snapshotsapi.ListSnapshotsRequest, _ ...grpc.CallOption) (snapshotsapi.Snapshots_ListClient, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A collection after a removal ends although its client, whose end it outlives, waits for ever.
func TestCollectionEndsWithoutTheSnapshotter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Service{cfg: Config{Logger: slog.New(slog.DiscardHandler)}}
		s.collector = gc.New(gc.Config{
			Snapshots: stoppedSnapshotter{}, Logger: s.cfg.Logger, Live: func() (gc.Live, error) { return gc.Live{}, nil },
		})
		ended := make(chan struct{})
		go func() {
			s.collectLater(t.Context())
			close(ended)
		}()
		<-ended
		s.collector.Keep("sha256:0")()
	})
}
