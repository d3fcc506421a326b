// Package gc removes content and snapshots that no image needs any more.
package gc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/grpcstatus"
	"github.com/berthd/berth/manager/blobs"
	"github.com/berthd/berth/manager/unpack"
)

// transferLifetime is how long a transfer that was cut off waits to be continued.
const transferLifetime = 24 * time.Hour

// Live is what images need: digests of content, and keys of snapshots.
type Live map[string]bool

// Config is what a Collector works with.
type Config struct {
	Content     *blobs.Store
	Snapshots   snapshotsapi.SnapshotsClient
	Snapshotter string
	// Daemon is the ID of the daemon. What is only others' is left alone.
	Daemon string
	Logger *slog.Logger
	// Live tells what the recorded images need.
	Live func() (Live, error)
}

// Collector removes what is neither live nor kept.
type Collector struct {
	cfg Config

	mu   sync.Mutex // held during a collection, so that Keep decides for the whole of it
	kept map[string]int
}

// New makes a collector.
func New(cfg Config) *Collector {
	return &Collector{cfg: cfg, kept: map[string]int{}}
}

// Keep protects digests and keys of snapshots, there already or not yet, until release is called.
func (c *Collector) Keep(names ...string) (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		c.kept[name]++
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, name := range names {
			if c.kept[name]--; c.kept[name] == 0 {
				delete(c.kept, name)
			}
		}
	}
}

// Collect removes what nothing needs, and returns how many bytes of content and of snapshots that were.
func (c *Collector) Collect(ctx context.Context) (freed int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	live, err := c.cfg.Live()
	if err != nil {
		return 0, err
	}
	for name := range c.kept {
		live[name] = true
	}
	snapshots, err := c.collectSnapshots(ctx, live)
	if err != nil {
		return snapshots, err
	}
	content, err := c.collectContent(ctx, live)
	if err != nil {
		return snapshots + content, err
	}
	return snapshots + content, c.cfg.Content.AbortBefore(ctx, time.Now().Add(-transferLifetime))
}

// collectContent lets go of what was the top of an image, and lets the store remove it with all below it.
func (c *Collector) collectContent(ctx context.Context, live Live) (freed int64, err error) {
	before, err := c.contentSize(ctx)
	if err != nil {
		return 0, err
	}
	held, err := c.cfg.Content.Held(ctx)
	if err != nil {
		return 0, err
	}
	for _, d := range held {
		if live[d.String()] {
			continue
		}
		if err := c.cfg.Content.Release(ctx, d); err != nil {
			return 0, err
		}
	}
	if err := c.cfg.Content.Collect(ctx); err != nil {
		return 0, err
	}
	after, err := c.contentSize(ctx)
	return max(before-after, 0), err // a pull may have added some meanwhile
}

func (c *Collector) contentSize(ctx context.Context) (size int64, err error) {
	err = c.cfg.Content.List(ctx, func(info *contentapi.Info) { size += info.GetSize() })
	return size, err
}

func (c *Collector) collectSnapshots(ctx context.Context, live Live) (freed int64, err error) {
	dead, err := c.deadSnapshots(ctx, live)
	if err != nil {
		return 0, err
	}
	// A snapshot can go when nothing stands on it any more, so the last of a chain goes first.
	for removed := true; removed; {
		removed = false
		for key := range dead {
			size, err := c.removeSnapshot(ctx, key)
			if errors.Is(err, errdefs.ErrFailedPrecondition) {
				continue
			}
			if err != nil {
				return freed, err
			}
			delete(dead, key)
			freed += size
			removed = true
		}
	}
	_, err = c.cfg.Snapshots.Cleanup(blobs.WithNamespace(ctx), &snapshotsapi.CleanupRequest{Snapshotter: c.cfg.Snapshotter})
	err = grpcstatus.Error(err)
	if err != nil && !errors.Is(err, errdefs.ErrUnimplemented) {
		return freed, fmt.Errorf("cannot clean up after snapshots: %w", err)
	}
	return freed, nil
}

// deadSnapshots lists this daemon's snapshots of layers, and those that a crash kept from becoming such. Others, as those
// of containers, are not this package's.
func (c *Collector) deadSnapshots(ctx context.Context, live Live) (map[string]bool, error) {
	stream, err := c.cfg.Snapshots.List(blobs.WithNamespace(ctx), &snapshotsapi.ListSnapshotsRequest{Snapshotter: c.cfg.Snapshotter})
	if err != nil {
		return nil, fmt.Errorf("cannot list snapshots: %w", grpcstatus.Error(err))
	}
	dead := map[string]bool{}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return dead, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list snapshots: %w", grpcstatus.Error(err))
		}
		for _, info := range response.GetInfo() {
			name := info.GetName()
			chain, extracting := strings.CutPrefix(name, unpack.KeyPrefix)
			if extracting {
				_, chain, _ = strings.Cut(chain, " ")
			}
			layer := info.GetKind() == snapshotsapi.Kind_COMMITTED
			own := info.GetLabels()[unpack.OwnerLabel(c.cfg.Daemon)] != ""
			if own && (extracting || layer) && !live[chain] {
				dead[name] = true
			}
		}
	}
}

// removeSnapshot removes a snapshot, or lets go of it if it is another daemon's, too.
func (c *Collector) removeSnapshot(ctx context.Context, key string) (size int64, err error) {
	ctx = blobs.WithNamespace(ctx)
	stat, err := c.cfg.Snapshots.Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: c.cfg.Snapshotter, Key: key})
	if err == nil && unpack.OthersOwn(stat.GetInfo().GetLabels(), c.cfg.Daemon) {
		_, err = c.cfg.Snapshots.Update(ctx, &snapshotsapi.UpdateSnapshotRequest{
			Snapshotter: c.cfg.Snapshotter, Info: &snapshotsapi.Info{Name: key},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels." + unpack.OwnerLabel(c.cfg.Daemon)}},
		})
		if err = grpcstatus.Error(err); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return 0, fmt.Errorf("cannot let go of snapshot %q: %w", key, err)
		}
		return 0, nil
	}
	if usage, err := c.cfg.Snapshots.Usage(ctx, &snapshotsapi.UsageRequest{Snapshotter: c.cfg.Snapshotter, Key: key}); err == nil {
		size = usage.GetSize()
	}
	_, err = c.cfg.Snapshots.Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: c.cfg.Snapshotter, Key: key})
	err = grpcstatus.Error(err)
	if errors.Is(err, errdefs.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot remove snapshot %q: %w", key, err)
	}
	c.cfg.Logger.Debug("snapshot removed", "key", key, "size", size)
	return size, nil
}
