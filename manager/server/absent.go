package server

import (
	"fmt"

	"github.com/berthd/berth/internal/errdefs"
)

// notImplemented says what a later berthd will do.
func notImplemented(what string) error {
	return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("%s is not implemented", what))
}
