// Package errdefs names the few classes of failure that a caller acts on. They are gRPC's canonical codes, so that
// one interceptor can turn an error of any component into a status and back.
package errdefs

import "errors"

// The classes. Wrap one with %w, or use the New functions below, and test with errors.Is.
var (
	ErrNotFound           = errors.New("not found")
	ErrAlreadyExists      = errors.New("already exists")
	ErrInvalidArgument    = errors.New("invalid argument")
	ErrFailedPrecondition = errors.New("failed precondition")
	ErrUnavailable        = errors.New("unavailable")
	ErrUnimplemented      = errors.New("not implemented")
	ErrPermissionDenied   = errors.New("permission denied")
	ErrUnauthenticated    = errors.New("unauthenticated")
	ErrAborted            = errors.New("aborted")
	ErrDataLoss           = errors.New("data loss")
	ErrResourceExhausted  = errors.New("resource exhausted")
)

// classified is an error whose sentence says nothing of its class: errors.Is finds the class, people read the sentence.
type classified struct {
	error
	class error
}

func (e classified) Unwrap() []error { return []error{e.error, e.class} }

// As returns err marked as of class, with its text unchanged. A nil err stays nil.
func As(class, err error) error {
	if err == nil {
		return nil
	}
	return classified{error: err, class: class}
}
