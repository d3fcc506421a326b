// Package config reads and checks a bundle's config.json, so that every mistake in it is a sentence that names the field,
// before anything of the container exists.
package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
)

// File is the name of the configuration in a bundle.
const File = "config.json"

// Load reads and checks the configuration of the bundle.
func Load(bundle string) (*specs.Spec, error) {
	_, spec, err := Read(bundle)
	return spec, err
}

// Read is Load for those who want to keep the content too.
func Read(bundle string) ([]byte, *specs.Spec, error) {
	content, err := os.ReadFile(filepath.Join(bundle, File))
	var spec *specs.Spec
	var ignored []string
	if err == nil {
		spec, ignored, err = parse(content)
	}
	for _, field := range ignored {
		fmt.Fprintf(os.Stderr, "%s of bundle %q: field %s: there is no such field, it is ignored\n", File, bundle, field)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read %s of bundle %q: %w", File, bundle, err)
	}
	return content, spec, nil
}

// Parse understands and checks the content of a config.json.
func Parse(content []byte) (*specs.Spec, error) {
	spec, _, err := parse(content)
	return spec, err
}

// parse is Parse, and lists the unknown fields at the top, which are ignored.
func parse(content []byte) (spec *specs.Spec, ignored []string, err error) {
	spec = new(specs.Spec)
	if !decodeFast(content, spec) {
		*spec = specs.Spec{}
		if ignored, err = decode(content, spec, true); err != nil {
			return nil, nil, err
		}
	}
	if err := validate(spec); err != nil {
		if len(ignored) > 0 { // which may be what is missing now, misspelt
			return nil, nil, invalid(ignored[0], "there is no such field")
		}
		return nil, nil, err
	}
	return spec, ignored, nil
}

// LoadProcess reads and checks a process to execute in a running container, as `exec --process` names one.
func LoadProcess(file string) (*specs.Process, error) {
	process := new(specs.Process)
	content, err := os.ReadFile(file)
	if err == nil {
		err = Decode(content, process)
	}
	if err == nil {
		err = CheckProcess(process)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read process %q: %w", file, err)
	}
	return process, nil
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
