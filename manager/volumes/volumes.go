// Package volumes keeps directories that outlive containers.
package volumes

import (
	"context"
	"log/slog"
	"time"

	"go.etcd.io/bbolt"

	"github.com/berthd/berth/internal/errdefs"
)

// Config is what a Service works with.
type Config struct {
	DB *bbolt.DB
	// Dir holds a directory for each volume.
	Dir    string
	Logger *slog.Logger
}

// Service is the volumes of one host.
type Service struct {
	cfg Config
}

// Volume is one directory with a name.
type Volume struct {
	Name       string
	Driver     string
	Options    map[string]string
	Labels     map[string]string
	CreatedAt  time.Time
	Mountpoint string
	Anonymous  bool
	// Containers are the IDs of those that use it.
	Containers []string
}

// New opens the volumes recorded in cfg.DB.
func New(cfg Config) (*Service, error) { return &Service{cfg: cfg}, nil }

// Create makes a volume, or answers the one that is there with the same driver and options. An empty name makes an
// anonymous one, which is removed with its container.
func (s *Service) Create(ctx context.Context, volume Volume) (Volume, error) {
	return Volume{}, errdefs.ErrUnimplemented
}

// Use records that a container uses a volume, made now if it is not there, and returns its directory.
func (s *Service) Use(ctx context.Context, name, containerID string) (hostPath string, err error) {
	return "", errdefs.ErrUnimplemented
}

// Release undoes each Use of a container. With anonymous, its anonymous volumes that nothing else uses are removed.
func (s *Service) Release(ctx context.Context, containerID string, anonymous bool) error {
	return errdefs.ErrUnimplemented
}

// Populate copies the directory at path inside the file system at root into the volume, if the volume is new and
// empty. Symbolic links in path are resolved inside root.
func (s *Service) Populate(ctx context.Context, name, root, path string) error {
	return errdefs.ErrUnimplemented
}
