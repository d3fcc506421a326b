package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/berthd/berth/internal/errdefs"
)

// Create makes the container's cgroup, or takes over an empty one, and sets its limits. On failure nothing stays.
func Create(config Config) (Cgroup, error) {
	if config.Systemd {
		return createScope(config)
	}
	unified, err := IsUnified()
	if err != nil {
		return nil, err
	}
	return createPlain(config, unified)
}

func createPlain(config Config, unified bool) (Cgroup, error) {
	if unified {
		return createV2(config)
	}
	return createV1(config)
}

// LoadScope opens a cgroup that was made as a scope of systemd's. Without systemd it is one like any other.
func LoadScope(paths map[string]string) (Cgroup, error) {
	group, err := Load(paths)
	if err != nil {
		return nil, err
	}
	return asScope(group), nil
}

// Load opens the cgroup of which Paths were kept.
func Load(paths map[string]string) (Cgroup, error) {
	if len(paths) == 0 {
		return nil, errdefs.As(errdefs.ErrNotFound, errors.New("the container has no cgroup"))
	}
	if dir, ok := paths[""]; ok && len(paths) == 1 {
		group, err := loadV2(dir)
		if err != nil {
			return nil, err
		}
		return group, nil
	}
	return loadV1(paths), nil
}

// makeDirs creates dir and the missing directories above it, which lies below top, and returns those it made,
// outermost first. It tries the innermost first, as that is the only one missing for all but the first container.
func makeDirs(top, dir string) ([]string, error) {
	err := os.Mkdir(dir, 0o755)
	switch {
	case err == nil:
		return []string{dir}, nil
	case errors.Is(err, fs.ErrExist):
		return nil, nil
	case !errors.Is(err, fs.ErrNotExist) || len(dir) <= len(top):
		return nil, fmt.Errorf("cannot create the cgroup: %w", err)
	}
	made, err := makeDirs(top, filepath.Dir(dir))
	if err != nil {
		return made, err
	}
	inner, err := makeDirs(top, dir)
	return append(made, inner...), err
}
