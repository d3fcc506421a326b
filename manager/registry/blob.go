package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berthd/berth/internal/errdefs"
)

// stallTimeout ends a transfer in which nothing has come for so long.
const stallTimeout = 30 * time.Second

// Blob fetches a blob from an offset to its end. A registry that does not serve ranges sends all of it, and what
// comes before the offset is skipped.
func (r *Repository) Blob(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	response, err := r.get(ctx, "blobs/"+desc.Digest.String(), header)
	if err != nil {
		return nil, err
	}
	if err := position(response, desc, offset); err != nil {
		_ = response.Body.Close()
		return nil, err
	}
	return response.Body, nil
}

// position checks the response and brings its body to offset.
func position(response *http.Response, desc ocispec.Descriptor, offset int64) error {
	if response.StatusCode == http.StatusPartialContent {
		var first int64
		if _, err := fmt.Sscanf(response.Header.Get("Content-Range"), "bytes %d-", &first); err != nil || first != offset {
			return errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("the registry was asked for the range from %d and answered %q", offset, response.Header.Get("Content-Range")))
		}
		return nil
	}
	if response.ContentLength >= 0 && response.ContentLength != desc.Size {
		return errdefs.As(errdefs.ErrDataLoss, fmt.Errorf("the registry has %d bytes for %s, its descriptor says %d", response.ContentLength, desc.Digest, desc.Size))
	}
	if _, err := io.CopyN(io.Discard, response.Body, offset); err != nil {
		return classify(err)
	}
	return nil
}

// get makes a request below the repository. An answer other than a success is an error.
func (r *Repository) get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	scheme := "https"
	if r.repo.PlainHTTP {
		scheme = "http"
	}
	ref := r.repo.Reference
	url := fmt.Sprintf("%s://%s/v2/%s/%s", scheme, ref.Host(), ref.Repository, path)
	request, err := http.NewRequestWithContext(auth.AppendRepositoryScope(ctx, ref, auth.ActionPull), http.MethodGet, url, nil)
	if err != nil {
		cancel(nil)
		return nil, errdefs.As(errdefs.ErrInvalidArgument, err)
	}
	request.Header = header
	response, err := r.auth.Do(request)
	if err != nil {
		cancel(nil)
		return nil, classify(err)
	}
	response.Body = newStallReader(ctx, response.Body, cancel)
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusPartialContent {
		defer func() { _ = response.Body.Close() }()
		err := responseError(response)
		if response.StatusCode == http.StatusUnauthorized && r.auth.credentials == (Credentials{}) {
			err = fmt.Errorf("%w: %s", err, loginHint(r.auth.host))
		}
		return nil, err
	}
	return response, nil
}

// stallReader gives up on a body from which nothing comes. Its timer runs while it waits for the registry, and not
// while its reader is busy with what has come.
type stallReader struct {
	body   io.ReadCloser
	ctx    context.Context //nolint:containedctx // the request's: its cause tells a stall from the caller's cancel
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func newStallReader(ctx context.Context, body io.ReadCloser, cancel context.CancelCauseFunc) *stallReader {
	return &stallReader{body: body, ctx: ctx, cancel: cancel, timer: stallTimer(cancel, "sent")}
}

// stallTimer returns a timer that is not running yet.
func stallTimer(cancel context.CancelCauseFunc, verb string) *time.Timer {
	timer := time.AfterFunc(time.Hour, func() {
		cancel(errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("the registry has %s nothing for %v", verb, stallTimeout)))
	})
	timer.Stop()
	return timer
}

func (r *stallReader) Read(p []byte) (int, error) {
	r.timer.Reset(stallTimeout)
	n, err := r.body.Read(p)
	r.timer.Stop()
	if err != nil && err != io.EOF { //nolint:errorlint // a reader's EOF is never wrapped
		if cause := context.Cause(r.ctx); cause != nil {
			return n, cause
		}
		return n, classify(err)
	}
	return n, err
}

func (r *stallReader) Close() error {
	r.timer.Stop()
	r.cancel(nil)
	return r.body.Close()
}

// uploadReader gives up on an upload whose content the registry does not take: its timer runs between reads.
type uploadReader struct {
	content io.Reader
	timer   *time.Timer
}

func newUploadReader(content io.Reader, cancel context.CancelCauseFunc) *uploadReader {
	return &uploadReader{content: content, timer: stallTimer(cancel, "taken")}
}

func (r *uploadReader) Read(p []byte) (int, error) {
	r.timer.Stop()
	n, err := r.content.Read(p)
	if err == nil {
		r.timer.Reset(stallTimeout)
	}
	return n, err
}

func (r *uploadReader) stop() { r.timer.Stop() }
