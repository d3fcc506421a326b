package config

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
)

// checkImplemented refuses what the runtime would otherwise silently leave out.
func checkImplemented(spec *specs.Spec) error {
	linux := spec.Linux
	for _, part := range []struct {
		field string
		used  bool
	}{
		{"linux.intelRdt", linux.IntelRdt != nil},
	} {
		if part.used {
			return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("field %s: %w", part.field, errors.New("it is not implemented")))
		}
	}
	return nil
}
