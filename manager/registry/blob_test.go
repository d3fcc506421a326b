package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/internal/errdefs"
)

// A download is stalled when the registry sends nothing, not when this host is slow to store what has come.
func TestStallIsTheRegistrys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		body, registry := io.Pipe()
		context.AfterFunc(ctx, func() { _ = registry.CloseWithError(context.Cause(ctx)) })
		r := newStallReader(ctx, body, cancel)
		buffer := make([]byte, 1)
		for range 3 {
			go func() { _, _ = registry.Write([]byte("x")) }()
			if _, err := r.Read(buffer); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * stallTimeout) // the store is slow
		}
		start := time.Now()
		_, err := r.Read(buffer)
		if !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "sent nothing") || time.Since(start) != stallTimeout {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		_ = r.Close()
	})
}

func TestUploadEndsWhenTheRegistryTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		r := newUploadReader(strings.NewReader(strings.Repeat("x", 10)), cancel)
		for range 3 {
			if _, err := r.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(stallTimeout / 2) // the registry takes it
		}
		<-ctx.Done()
		if err := context.Cause(ctx); !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "taken nothing") {
			t.Errorf("got %v", err)
		}
		r.stop()
	})
}

// A body that ends while the part is skipped that is here already is a broken connection, which is tried again.
func TestShortBodyIsTriedAgain(t *testing.T) {
	response := &http.Response{StatusCode: http.StatusOK, ContentLength: -1, Body: io.NopCloser(strings.NewReader("short"))}
	err := position(response, ocispec.Descriptor{Size: 100}, 50)
	if !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

func TestPosition(t *testing.T) {
	for name, c := range map[string]struct {
		status  int
		length  int64
		content string
		offset  int64
		class   error
		rest    string
	}{
		"a range":               {http.StatusPartialContent, 5, "bytes 5-9/10", 5, nil, "0123456789"},
		"another range":         {http.StatusPartialContent, 5, "bytes 0-4/10", 5, errdefs.ErrUnavailable, ""},
		"rubbish for a range":   {http.StatusPartialContent, 5, "rubbish", 5, errdefs.ErrUnavailable, ""},
		"all in place of range": {http.StatusOK, 10, "", 5, nil, "56789"},
		"another length":        {http.StatusOK, 11, "", 0, errdefs.ErrDataLoss, ""},
		"no length":             {http.StatusOK, -1, "", 0, nil, "0123456789"},
	} {
		response := &http.Response{StatusCode: c.status, ContentLength: c.length, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("0123456789"))}
		response.Header.Set("Content-Range", c.content)
		err := position(response, ocispec.Descriptor{Size: 10}, c.offset)
		if !errors.Is(err, c.class) {
			t.Errorf("%s: got %v, want %v", name, err, c.class)
			continue
		}
		if rest, _ := io.ReadAll(response.Body); err == nil && string(rest) != c.rest {
			t.Errorf("%s: the body goes on with %q, want %q", name, rest, c.rest)
		}
	}
}
