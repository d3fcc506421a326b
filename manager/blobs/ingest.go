package blobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/grpcstatus"
)

// chunkSize is how much goes into one message: far below gRPC's limit of 4 MiB, and large against its fixed cost.
const chunkSize = 1 << 20

// Transfer is a blob on its way into the store.
type Transfer struct {
	Descriptor ocispec.Descriptor
	Labels     map[string]string
	// Open starts reading the content at an offset.
	Open func(ctx context.Context, offset int64) (io.ReadCloser, error)
	// Progress, if set, is told how many bytes are in the store.
	Progress func(current int64)
}

// errShort says that a source ended before the size that its descriptor promises.
var errShort = errors.New("the transfer was cut off")

// Ingest writes a blob into the store under the lease. It goes on where an earlier transfer of the same content was
// cut off, and leaves a cut-off transfer for a later one to continue. Content that does not match its descriptor is
// dropped, with ErrDataLoss. A blob that is there already is only added to the lease.
func (l *Lease) Ingest(ctx context.Context, t Transfer) error {
	for {
		resumed, err := l.ingest(ctx, t)
		if resumed && errors.Is(err, errdefs.ErrDataLoss) {
			// The part that was there may be what is wrong, and it may be from another registry.
			_, err = l.ingest(ctx, t)
		}
		if err != nil {
			return err
		}
		// A blob that was there may have been collected before it was in the lease. Now it can't be.
		info, err := l.store.Info(ctx, t.Descriptor.Digest)
		switch {
		case errors.Is(err, errdefs.ErrNotFound):
			continue
		case err != nil:
			return err
		case info.GetSize() != t.Descriptor.Size:
			return errdefs.As(errdefs.ErrDataLoss, fmt.Errorf(
				"content %s has %d bytes, its descriptor says %d", t.Descriptor.Digest, info.GetSize(), t.Descriptor.Size))
		}
		return nil
	}
}

// closePatience is how long a store may take to end a call whose caller has gone.
const closePatience = 10 * time.Second

// Lasting returns a context for a call whose result has to be known. It outlives ctx by a little, and no longer: a store that
// hangs must not hold a caller that has gone.
func Lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(closePatience, cancel) })
	return lasting, func() {
		stop()
		cancel()
	}
}

func (l *Lease) ingest(ctx context.Context, t Transfer) (resumed bool, err error) {
	// The stream outlives ctx by a little, so that it is known what became of the blob.
	lasting, cancel := Lasting(ctx)
	defer cancel()
	stream, err := l.store.content.Write(l.store.transfers().Context(lasting))
	if err != nil {
		return false, fmt.Errorf("cannot write content %s: %w", t.Descriptor.Digest, grpcstatus.Error(err))
	}
	w := &ingest{Transfer: t, ref: fmt.Sprintf("%sblob-%s-%d", l.store.refPrefix(), t.Descriptor.Digest, t.Descriptor.Size), stream: stream}
	err = w.run(ctx)
	w.close()
	if errors.Is(err, errdefs.ErrResourceExhausted) {
		l.full.Store(true)
	}
	switch {
	case err == nil || errors.Is(err, errdefs.ErrAlreadyExists):
		err = l.Add(lasting, t.Descriptor.Digest)
	case errors.Is(err, errdefs.ErrDataLoss) || l.full.Load():
		// On a full disk nothing of the pull is left for a later one: it may be what fills it.
		err = errors.Join(err, l.store.abort(lasting, w.ref))
	}
	return w.start > 0, errors.Join(err, l.store.transfers().drop(lasting, t.Descriptor.Digest))
}

type ingest struct {
	Transfer
	ref    string
	stream contentapi.Content_WriteClient
	// start is what the store had before, offset what it has now.
	start, offset int64
}

func (w *ingest) run(ctx context.Context) error {
	err := w.send(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_STAT, Ref: w.ref, Total: w.Descriptor.Size, Expected: w.Descriptor.Digest.String(),
	})
	if err != nil {
		return err
	}
	w.start = w.offset
	if w.offset > w.Descriptor.Size {
		return w.dataLoss("is longer than its descriptor says")
	}
	if w.offset < w.Descriptor.Size {
		if err := w.copy(ctx); err != nil {
			return err
		}
	}
	err = w.send(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_COMMIT, Ref: w.ref, Total: w.Descriptor.Size,
		Expected: w.Descriptor.Digest.String(), Offset: w.offset, Labels: w.Labels,
	})
	if errors.Is(err, errdefs.ErrFailedPrecondition) {
		return w.dataLoss("does not match its digest")
	}
	return err
}

func (w *ingest) copy(ctx context.Context) error {
	source, err := w.Open(ctx, w.offset)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	// The next chunk is read while the store hashes this one: it answers when that is done.
	size := min(chunkSize, w.Descriptor.Size-w.offset+1)
	buffers := [2][]byte{make([]byte, size), make([]byte, size)}
	offset := w.offset
	n, readErr := io.ReadFull(source, buffers[0])
	for i := 0; ; i++ {
		if offset+int64(n) > w.Descriptor.Size {
			return w.dataLoss("is longer than its descriptor says")
		}
		sent := n > 0
		if sent {
			request := &contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Ref: w.ref, Offset: offset, Data: buffers[i%2][:n]}
			if err := w.request(request); err != nil {
				return err
			}
			offset += int64(n)
		}
		err := readErr
		if err == nil {
			n, readErr = io.ReadFull(source, buffers[(i+1)%2])
		}
		if sent {
			if err := w.answer(); err != nil {
				return err
			}
		}
		if err != nil {
			return w.ended(err)
		}
	}
}

// ended says what the end of a source means.
func (w *ingest) ended(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if w.offset < w.Descriptor.Size {
		return errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("%w after %d of %d bytes", errShort, w.offset, w.Descriptor.Size))
	}
	return nil
}

// send makes one request and takes its response.
func (w *ingest) send(request *contentapi.WriteContentRequest) error {
	if err := w.request(request); err != nil {
		return err
	}
	return w.answer()
}

func (w *ingest) request(request *contentapi.WriteContentRequest) error {
	if err := w.stream.Send(request); err != nil && !errors.Is(err, io.EOF) { // after an EOF, the answer tells why
		return fmt.Errorf("cannot write content %s: %w", w.Descriptor.Digest, grpcstatus.Error(err))
	}
	return nil
}

// answer takes the response to a request, which says how much the store has.
func (w *ingest) answer() error {
	response, err := w.stream.Recv()
	if err != nil {
		return fmt.Errorf("cannot write content %s: %w", w.Descriptor.Digest, grpcstatus.Error(err))
	}
	moved := response.GetOffset() > w.offset
	w.offset = response.GetOffset()
	if moved && w.Progress != nil {
		w.Progress(w.offset)
	}
	return nil
}

// close returns when the store has let go of the transfer, so that it can be continued at once.
func (w *ingest) close() {
	_ = w.stream.CloseSend()
	for {
		if _, err := w.stream.Recv(); err != nil {
			return
		}
	}
}

func (w *ingest) dataLoss(what string) error {
	return errdefs.As(errdefs.ErrDataLoss, fmt.Errorf("content %s %s", w.Descriptor.Digest, what))
}
