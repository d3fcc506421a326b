package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/berthd/berth/internal/errdefs"
)

// RetryAfter is an error of a registry that says when to come again.
type RetryAfter struct {
	error
	Delay time.Duration
}

func (e RetryAfter) Unwrap() error { return e.error }

// maxErrorBody bounds what is read of an answer that says what is wrong.
const maxErrorBody = 64 << 10

// responseError makes an error of an answer that is not the one hoped for.
func responseError(response *http.Response) error {
	failure := &errcode.ErrorResponse{Method: response.Request.Method, URL: response.Request.URL, StatusCode: response.StatusCode}
	if content, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBody)); err == nil {
		var parsed struct {
			Errors errcode.Errors `json:"errors"`
		}
		if json.Unmarshal(content, &parsed) == nil {
			failure.Errors = parsed.Errors
		}
	}
	err := classify(failure)
	if seconds, convErr := strconv.Atoi(response.Header.Get("Retry-After")); convErr == nil && seconds > 0 {
		return RetryAfter{error: err, Delay: time.Duration(seconds) * time.Second}
	}
	return err
}

// classify gives an error of the client library one of our classes, and a sentence without the request's internals.
func classify(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	var response *errcode.ErrorResponse
	var address *url.Error
	var certificate *tls.CertificateVerificationError
	switch {
	case classified(err) && errors.As(err, &address):
		return address.Err
	case classified(err):
		return err
	case errors.As(err, &response):
		return errdefs.As(classOf(response.StatusCode), fmt.Errorf("the registry %s answered %d: %s", response.URL.Host, response.StatusCode, reason(response)))
	case errors.Is(err, errdef.ErrNotFound):
		return errdefs.As(errdefs.ErrNotFound, errors.New("the registry has no such image"))
	case errors.As(err, &certificate):
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("the registry's certificate is not trusted: %w", certificate))
	case errors.Is(err, http.ErrSchemeMismatch):
		return errdefs.As(errdefs.ErrFailedPrecondition, errors.New("the registry speaks plain HTTP: start berthd with --insecure-registry if that is meant to be"))
	case errors.As(err, &address):
		return errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("the registry can't be reached: %w", address.Err))
	}
	return errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("the registry broke off: %w", err))
}

// classified tells whether an error has a class already, as those of authentication have.
func classified(err error) bool {
	for _, class := range []error{
		errdefs.ErrUnauthenticated, errdefs.ErrUnavailable, errdefs.ErrFailedPrecondition, errdefs.ErrInvalidArgument,
		errdefs.ErrPermissionDenied, errdefs.ErrNotFound, errdefs.ErrDataLoss,
	} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// IsDial tells whether no connection was made at all: a wrong name or port, more likely than a bad moment.
func IsDial(err error) bool {
	var operation *net.OpError
	return errors.As(err, &operation) && operation.Op == "dial"
}

func classOf(status int) error {
	switch status {
	case http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case http.StatusNotFound:
		return errdefs.ErrNotFound
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		return errdefs.ErrUnavailable
	}
	if status >= 500 {
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrFailedPrecondition
}

func reason(response *errcode.ErrorResponse) string {
	var sentences []string
	for _, e := range response.Errors {
		sentences = append(sentences, cmp.Or(e.Message, e.Code))
	}
	return cmp.Or(strings.Join(sentences, "; "), http.StatusText(response.StatusCode), "no reason given")
}
