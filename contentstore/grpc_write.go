package contentstore

import (
	"errors"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Write is a conversation about one ingest: its ref is locked from the first request until the stream ends. Each request
// is answered, so the client always knows how far it is.
func (c *contentService) Write(stream contentapi.Content_WriteServer) error {
	sc, err := scopeOf(stream.Context())
	if err != nil {
		return err
	}
	request, err := stream.Recv()
	if err != nil {
		return err
	}
	w, err := c.store.begin(sc, request.Ref, request.Total, request.Expected)
	if err != nil {
		return err
	}
	defer w.close()
	for {
		response, err := w.answer(request)
		if err != nil {
			return err
		}
		if err := stream.Send(response); err != nil {
			return err
		}
		if request.Action == contentapi.WriteAction_COMMIT {
			return nil
		}
		if request, err = stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if request.Ref != "" && request.Ref != w.key.ref {
			return status.Errorf(codes.InvalidArgument, "a stream writes to one ref, not to %q and %q", w.key.ref, request.Ref)
		}
	}
}

// answer does what one request asks for.
func (w *writer) answer(r *contentapi.WriteContentRequest) (*contentapi.WriteContentResponse, error) {
	if err := w.expect(r.Total, r.Expected); err != nil {
		return nil, err
	}
	response := &contentapi.WriteContentResponse{Action: r.Action}
	switch r.Action {
	case contentapi.WriteAction_STAT:
	case contentapi.WriteAction_WRITE, contentapi.WriteAction_COMMIT:
		if err := w.take(r); err != nil {
			return nil, err
		}
	default:
		return nil, status.Errorf(codes.InvalidArgument, "unknown write action %d", r.Action)
	}
	// containerd's clients take the digest so far from each answer.
	digestOf := w.digest
	if r.Action == contentapi.WriteAction_COMMIT {
		digestOf = func() (digest.Digest, error) { return w.commit(r.Labels) }
	}
	d, err := digestOf()
	if err != nil {
		return nil, err
	}
	response.Digest = d.String()
	response.StartedAt, response.UpdatedAt = w.status.StartedAt, w.status.UpdatedAt
	response.Offset, response.Total = w.status.Offset, w.status.Total
	return response, nil
}

// take writes a request's data at its offset, which has to be where the ingest stands, or 0 to begin anew. A request
// with neither data nor offset leaves the ingest as it is.
func (w *writer) take(r *contentapi.WriteContentRequest) error {
	bare := len(r.Data) == 0 && r.Offset == 0
	switch {
	case bare || r.Offset == w.status.Offset:
	case r.Offset == 0:
		if err := w.restart(); err != nil {
			return err
		}
	default:
		return status.Errorf(codes.OutOfRange, "cannot write ingest %q at byte %d: it stands at %d", w.key.ref, r.Offset, w.status.Offset)
	}
	if w.status.Total > 0 && w.status.Offset+int64(len(r.Data)) > w.status.Total {
		return status.Errorf(codes.FailedPrecondition,
			"cannot write ingest %q: it would get more than the %d bytes that were announced", w.key.ref, w.status.Total)
	}
	if len(r.Data) == 0 {
		return nil
	}
	return w.write(r.Data)
}
