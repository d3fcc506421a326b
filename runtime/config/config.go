// Package config reads and checks a bundle's config.json, so that every mistake in it is a sentence that names the field,
// before anything of the container exists.
package config

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/kernelfile"
)

// File is the name of the configuration in a bundle.
const File = "config.json"

// Document is a configuration with the text that it comes from.
type Document struct {
	Content []byte
	Spec    *specs.Spec
	Ignored []string // paths of the fields that no version of the specification up to ours has
}

// Read reads and checks the configuration of the bundle.
func Read(bundle string) (*Document, error) {
	content, err := kernelfile.Read(filepath.Join(bundle, File))
	d := &Document{Content: content}
	if err == nil {
		d.Spec, d.Ignored, err = parse(content)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of bundle %q: %w", File, bundle, err)
	}
	return d, nil
}

// Parse understands and checks the content of a config.json.
func Parse(content []byte) (*specs.Spec, error) {
	spec, _, err := parse(content)
	return spec, err
}

// parse is Parse, and lists the unknown fields, which are ignored.
func parse(content []byte) (spec *specs.Spec, ignored []string, err error) {
	spec = new(specs.Spec)
	if ignored, err = Decode(content, spec); err != nil {
		return nil, nil, err
	}
	if err := validate(spec); err != nil {
		if len(ignored) > 0 { // which may be what is missing now, misspelt
			err = fmt.Errorf("%w (and field %s: there is no such field)", err, ignored[0])
		}
		return nil, nil, err
	}
	translate(spec)
	return spec, ignored, nil
}

// LoadProcess reads and checks a process to execute in a running container, as `exec --process` names one. It lists
// unknown fields, which are ignored.
func LoadProcess(file string) (process *specs.Process, ignored []string, err error) {
	process = new(specs.Process)
	content, err := kernelfile.Read(file)
	if err == nil {
		ignored, err = Decode(content, process)
	}
	if err == nil {
		err = CheckProcess(process)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read process %q: %w", file, err)
	}
	return process, ignored, nil
}

// CheckProcess checks a process on its own, such as one put together from flags.
func CheckProcess(process *specs.Process) error {
	return checkProcess("", process)
}

// invalid is the error for a field that can't be as it is.
func invalid(field, format string, args ...any) error {
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("field %s: %w", field, fmt.Errorf(format, args...)))
}

// first returns the first error of checks, which run only until then.
func first(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

var errRequired = errors.New("it is required")
