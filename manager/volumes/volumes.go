// Package volumes keeps directories that outlive containers.
//
//	DIR/NAME/_data        what containers see
//	DIR/.removing-RANDOM  a volume on its way out, which the next start finishes removing
package volumes

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/store"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const (
	dataDir        = "_data"
	removingPrefix = ".removing-"
	// localDriver is the only one there is.
	localDriver = "local"
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
	cfg   Config
	table *store.Table[record]

	mu      sync.Mutex // held while a volume is populated, too: nobody may use half of one
	volumes map[string]*record
}

// record is what is durable of a volume.
type record struct {
	Name      string            `json:"name"`
	Options   map[string]string `json:"options,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"createdAt"`
	Anonymous bool              `json:"anonymous,omitempty"`
	// Pending is an anonymous volume of a container that does not use it yet. After a crash it is nobody's.
	Pending bool `json:"pending,omitempty"`
	// Populating is set while files of an image are copied. What a crash leaves of that is removed.
	Populating bool     `json:"populating,omitempty"`
	Users      []string `json:"users,omitempty"`
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
func New(cfg Config) (*Service, error) {
	table, err := store.NewTable[record](cfg.DB, "volumes", 1)
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, table: table}
	if s.volumes, err = table.All(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("cannot make the directory of volumes: %w", err)
	}
	if err := s.recover(); err != nil {
		return nil, fmt.Errorf("cannot bring the volumes in order: %w", err)
	}
	return s, nil
}

// recover finishes or undoes what a crash cut off.
func (s *Service) recover() error {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), removingPrefix) {
			if err := os.RemoveAll(filepath.Join(s.cfg.Dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	for _, r := range maps.Clone(s.volumes) {
		if r.Pending && len(r.Users) == 0 {
			if err := s.remove(r); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(s.data(r.Name), 0o755); err != nil {
			return err
		}
		if r.Populating {
			if err := s.abandon(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Service) data(name string) string { return filepath.Join(s.cfg.Dir, name, dataDir) }

func (s *Service) volume(r *record) Volume {
	return Volume{
		Name: r.Name, Driver: localDriver, Options: r.Options, Labels: r.Labels, CreatedAt: r.CreatedAt,
		Mountpoint: s.data(r.Name), Anonymous: r.Anonymous, Containers: slices.Clone(r.Users),
	}
}

func invalid(format string, args ...any) error {
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf(format, args...))
}

func noSuchVolume(name string) error {
	return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("no such volume: %q", name))
}

// NewName makes a name for an anonymous volume.
func NewName() string {
	name := make([]byte, 32)
	_, _ = rand.Read(name) // never fails
	return hex.EncodeToString(name)
}

var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`)

// Create makes a volume, or answers the one that is there with the same driver and options. An empty name makes an
// anonymous one, which is removed with its container.
func (s *Service) Create(_ context.Context, volume Volume) (Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.create(volume)
	if err != nil {
		return Volume{}, err
	}
	return s.volume(r), nil
}

func (s *Service) create(volume Volume) (*record, error) {
	if driver := cmp.Or(volume.Driver, localDriver); driver != localDriver {
		return nil, errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("the volume driver %q is not implemented", driver))
	}
	if len(volume.Options) > 0 {
		return nil, errdefs.As(errdefs.ErrUnimplemented, errors.New("options of the volume driver \"local\" are not implemented"))
	}
	pending := volume.Name == ""
	if pending {
		volume.Name, volume.Anonymous = NewName(), true
	}
	if !volumeName.MatchString(volume.Name) {
		return nil, invalid("the volume name %q is not valid: want letters, digits, '_', '.' and '-', at most 255; a directory of the host begins with a slash", volume.Name)
	}
	if r := s.volumes[volume.Name]; r != nil {
		return r, nil
	}
	r := &record{
		Name: volume.Name, Labels: volume.Labels, CreatedAt: time.Now().UTC(), Anonymous: volume.Anonymous, Pending: pending,
	}
	if err := s.put(r); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.data(r.Name), 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make volume %q: %w", r.Name, err), s.remove(r))
	}
	if err := os.Chmod(filepath.Dir(s.data(r.Name)), 0o711); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make volume %q: %w", r.Name, err), s.remove(r))
	}
	s.cfg.Logger.Info("volume created", "volume", r.Name)
	return r, nil
}

// put records a changed copy of a volume.
func (s *Service) put(r *record) error {
	if err := s.table.Put(r.Name, r); err != nil {
		return err
	}
	s.volumes[r.Name] = r
	return nil
}

// Use records that a container uses a volume, made now if it is not there, and returns its directory.
func (s *Service) Use(_ context.Context, name, containerID string) (hostPath string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.create(Volume{Name: name})
	if err != nil {
		return "", err
	}
	if slices.Contains(r.Users, containerID) {
		return s.data(name), nil
	}
	used := *r
	used.Pending = false
	used.Users = append(slices.Clone(r.Users), containerID)
	return s.data(r.Name), s.put(&used)
}

// Release undoes each Use of a container. With anonymous, its anonymous volumes that nothing else uses are removed.
func (s *Service) Release(_ context.Context, containerID string, anonymous bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, r := range maps.Clone(s.volumes) {
		i := slices.Index(r.Users, containerID)
		if i < 0 {
			continue
		}
		left := *r
		left.Users = slices.Delete(slices.Clone(r.Users), i, i+1)
		if anonymous && r.Anonymous && len(left.Users) == 0 {
			errs = append(errs, s.remove(r))
			continue
		}
		errs = append(errs, s.put(&left))
	}
	return errors.Join(errs...)
}

// Remove deletes a volume and its content. With force it is no error if there is none.
func (s *Service) Remove(_ context.Context, name string, force bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.volumes[name]
	if r == nil && force {
		return nil
	}
	if r == nil {
		return noSuchVolume(name)
	}
	if len(r.Users) > 0 {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot remove volume %q: container %.12s uses it", name, r.Users[0]))
	}
	return s.remove(r)
}

// remove takes a volume away at once, by its name, and then what was in it.
func (s *Service) remove(r *record) error {
	grave := filepath.Join(s.cfg.Dir, removingPrefix+rand.Text())
	if err := os.Rename(filepath.Join(s.cfg.Dir, r.Name), grave); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove volume %q: %w", r.Name, err)
	}
	if err := s.table.Delete(r.Name); err != nil {
		return err
	}
	delete(s.volumes, r.Name)
	if err := os.RemoveAll(grave); err != nil {
		return fmt.Errorf("cannot remove the content of volume %q: %w", r.Name, err)
	}
	s.cfg.Logger.Info("volume removed", "volume", r.Name)
	return nil
}

// Inspect tells all of one volume.
func (s *Service) Inspect(_ context.Context, name string) (Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.volumes[name]
	if r == nil {
		return Volume{}, noSuchVolume(name)
	}
	return s.volume(r), nil
}

// List answers the volumes that fit all filters, by name.
func (s *Service) List(_ context.Context, filters []*berthv1.Filter) ([]Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Volume
	for _, r := range s.volumes {
		fits, err := matches(r, filters)
		if err != nil {
			return nil, err
		}
		if fits {
			list = append(list, s.volume(r))
		}
	}
	slices.SortFunc(list, func(a, b Volume) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

func matches(r *record, filters []*berthv1.Filter) (bool, error) {
	tests := map[string]func(value string) bool{
		"name":     func(value string) bool { return strings.Contains(r.Name, value) },
		"driver":   func(value string) bool { return value == localDriver },
		"dangling": func(value string) bool { return (value == "true" || value == "1") == (len(r.Users) == 0) },
		"label": func(value string) bool {
			key, wanted, exact := strings.Cut(value, "=")
			got, there := r.Labels[key]
			return there && (!exact || got == wanted)
		},
	}
	for _, filter := range filters {
		test := tests[filter.GetKey()]
		if test == nil {
			return false, invalid("cannot filter volumes by %q: want name, driver, label or dangling", filter.GetKey())
		}
		if !slices.ContainsFunc(filter.GetValues(), test) {
			return false, nil
		}
	}
	return true, nil
}
