package registry

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/internal/errdefs"
)

func TestResponseError(t *testing.T) {
	for status, class := range map[int]error{
		401: errdefs.ErrUnauthenticated, 403: errdefs.ErrPermissionDenied, 404: errdefs.ErrNotFound, 408: errdefs.ErrUnavailable,
		429: errdefs.ErrUnavailable, 500: errdefs.ErrUnavailable, 503: errdefs.ErrUnavailable, 400: errdefs.ErrFailedPrecondition,
	} {
		response := &http.Response{
			StatusCode: status, Header: http.Header{"Retry-After": {"7"}}, Request: &http.Request{Method: http.MethodGet, URL: &url.URL{Host: "example"}},
			Body: io.NopCloser(strings.NewReader(`{"errors":[{"code":"X","message":"not today"}]}`)),
		}
		err := responseError(response)
		if !errors.Is(err, class) || !strings.Contains(err.Error(), "example") || !strings.Contains(err.Error(), "not today") {
			t.Errorf("%d: got %v, want %v", status, err, class)
		}
		if later, ok := errors.AsType[RetryAfter](err); !ok || later.Delay != 7*time.Second {
			t.Errorf("%d: it says to come again in %v", status, later.Delay)
		}
	}
}

func TestClassify(t *testing.T) {
	dial := &url.Error{Op: "Get", URL: "https://example/?token=secret", Err: &net.OpError{Op: "dial", Err: errors.New("refused")}}
	redirect := &url.Error{Op: "Get", URL: "https://example/?token=secret", Err: errdefs.As(errdefs.ErrFailedPrecondition, errors.New("from https to http"))}
	for name, c := range map[string]struct {
		err, class error
	}{
		"no connection": {dial, errdefs.ErrUnavailable}, "a broken one": {io.ErrUnexpectedEOF, errdefs.ErrUnavailable},
		"a refused redirect": {redirect, errdefs.ErrFailedPrecondition}, "the caller's end": {context.Canceled, context.Canceled},
	} {
		err := classify(c.err)
		if !errors.Is(err, c.class) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want %v", name, err, c.class)
		}
	}
	if !IsDial(classify(dial)) || IsDial(classify(io.ErrUnexpectedEOF)) {
		t.Error("IsDial does not tell a connection that was never made from one that broke")
	}
	if classify(nil) != nil {
		t.Error("nil has become an error")
	}
}
