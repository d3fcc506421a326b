package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/blobs"
	"github.com/berthd/berth/manager/registry"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const (
	// attempts is how often a transfer may fail one after the other without getting any further.
	attempts = 5
	// dialAttempts is the same where no connection was made: more likely the name is wrong.
	dialAttempts = 2
	// headway is what an attempt must bring to not count as failed.
	headway    = 1 << 20
	firstPause = 250 * time.Millisecond
	maxPause   = 15 * time.Second
)

// retry calls do until it succeeds, fails for a reason that will stay, or has failed too often: an attempt that got
// further than the one before is as good as a first one.
func (p *pull) retry(ctx context.Context, observe *observer, do func() error) error {
	failures, pause, reached := 0, firstPause, int64(0)
	for {
		err := do()
		if err == nil || ctx.Err() != nil || !errors.Is(err, errdefs.ErrUnavailable) {
			return err
		}
		if now := observe.reached(); now-reached >= headway {
			failures, pause, reached = 0, firstPause, now
		}
		failures++
		if failures >= attempts || registry.IsDial(err) && failures >= dialAttempts {
			return err
		}
		wait := pause/2 + rand.N(pause/2)
		if later, ok := errors.AsType[registry.RetryAfter](err); ok {
			wait = max(wait, later.Delay)
		}
		if wait > time.Minute {
			return fmt.Errorf("%w (it says to come again in %v)", err, wait)
		}
		pause = min(2*pause, maxPause)
		observe.retrying(err, wait)
		p.cfg.Logger.Debug("transfer is retried", "image", p.name.String(), "error", err, "pause", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// observer follows the transfer of one layer. A nil one sees nothing.
type observer struct {
	progress *progress
	layer    ocispec.Descriptor
	current  int64
}

func (o *observer) reached() int64 {
	if o == nil {
		return 0
	}
	return o.current
}

func (o *observer) retrying(err error, wait time.Duration) {
	if o != nil {
		o.progress.phase(o.layer, berthv1.Phase_PHASE_RETRYING, fmt.Sprintf("again in %v: %v", wait.Round(time.Millisecond), err))
	}
}

func (o *observer) moved(current int64) {
	o.current = current
	if current == o.layer.Size {
		o.progress.phase(o.layer, berthv1.Phase_PHASE_VERIFYING, "")
		return
	}
	o.progress.bytes(o.layer, berthv1.Phase_PHASE_DOWNLOADING, current)
}

// fetch brings a blob into the store, unless it is there.
func (p *pull) fetch(ctx context.Context, desc ocispec.Descriptor, observe *observer) error {
	unlock, err := p.busy.Lock(ctx, desc.Digest.String())
	if err != nil {
		return err
	}
	defer unlock()
	transfer := blobs.Transfer{
		Descriptor: desc,
		Open:       func(ctx context.Context, offset int64) (io.ReadCloser, error) { return p.repo.Blob(ctx, desc, offset) },
	}
	if observe != nil {
		transfer.Progress = observe.moved
	}
	return p.retry(ctx, observe, func() error { return p.lease.Ingest(ctx, transfer) })
}

func openBytes(content []byte) func(context.Context, int64) (io.ReadCloser, error) {
	return func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content[offset:])), nil
	}
}
