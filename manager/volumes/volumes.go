// Package volumes keeps directories that outlive containers.
//
//	DIR/NAME/_data            what containers see
//	DIR/.removing-HASH-RANDOM a removed volume whose content is being deleted; HASH is that of its name
package volumes

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/events"
	"github.com/berthd/berth/manager/filter"
	"github.com/berthd/berth/manager/namelock"
	"github.com/berthd/berth/manager/store"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const (
	dataDir = "_data"
	// localDriver is the only one there is.
	localDriver = "local"
)

// Config is what a Service works with.
type Config struct {
	DB *bbolt.DB
	// Dir holds a directory for each volume.
	Dir string
	// Events is told of what happens to volumes.
	Events *events.Broker
	Logger *slog.Logger
}

// Service is the volumes of one host.
type Service struct {
	cfg   Config
	table *store.Table[record]

	// busy is locked, by a volume's name, while its record, its directory or its content changes. Copies and deletions take
	// long: only calls that change the same volume wait for them.
	busy namelock.Locks

	mu      sync.Mutex // held for moments only, never during I/O
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
	if s.volumes, err = table.All(cfg.Logger, nil); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("cannot make the directory of volumes: %w", err)
	}
	return s, s.recover()
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
func (s *Service) Create(ctx context.Context, volume Volume) (Volume, error) {
	if driver := cmp.Or(volume.Driver, localDriver); driver != localDriver {
		return Volume{}, errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("the volume driver %q is not implemented", driver))
	}
	if len(volume.Options) > 0 {
		return Volume{}, errdefs.As(errdefs.ErrUnimplemented, errors.New("options of the volume driver \"local\" are not implemented"))
	}
	pending := volume.Name == ""
	if pending {
		volume.Name, volume.Anonymous = NewName(), true
	}
	if !volumeName.MatchString(volume.Name) {
		return Volume{}, invalid("the volume name %q is not valid: want letters, digits, '_', '.' and '-', at most 255; a directory of the host begins with a slash", volume.Name)
	}
	unlock, err := s.lock(ctx, volume.Name)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	r, err := s.create(&record{Name: volume.Name, Labels: volume.Labels, CreatedAt: time.Now().UTC(), Anonymous: volume.Anonymous, Pending: pending})
	if err != nil {
		return Volume{}, err
	}
	return s.volume(r), nil
}

// create makes the volume unless there is one of that name. Its name is locked.
func (s *Service) create(r *record) (*record, error) {
	if before := s.get(r.Name); before != nil {
		return before, nil
	}
	if err := s.put(r); err != nil {
		return nil, err
	}
	if err := s.makeDirectory(r.Name); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make volume %q: %w", r.Name, err), s.bury(r))
	}
	s.cfg.Logger.Info("volume created", "volume", r.Name)
	s.publish("create", r.Name, nil)
	return r, nil
}

// makeDirectory makes a volume's directory unless it is there. Its modes are set by chmod: users of containers need them, and berthd
// may have been started with any umask.
func (s *Service) makeDirectory(name string) error {
	data := s.data(name)
	if err := os.MkdirAll(filepath.Dir(data), 0o711); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Dir(data), 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(data, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil // its mode is that of its content
		}
		return err
	}
	return os.Chmod(data, 0o755)
}

// lock waits until no other call changes the volume.
func (s *Service) lock(ctx context.Context, name string) (unlock func(), err error) {
	if unlock, err = s.busy.Lock(ctx, name); err != nil {
		return nil, fmt.Errorf("cannot wait for another call that changes volume %q: %w", name, err)
	}
	return unlock, nil
}

func (s *Service) get(name string) *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.volumes[name]
}

// put records a changed copy of a volume, whose name is locked.
func (s *Service) put(r *record) error {
	if err := s.table.Put(r.Name, r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.volumes[r.Name] = r
	return nil
}

func (s *Service) publish(action, name string, attributes map[string]string) {
	if s.cfg.Events == nil {
		return
	}
	all := map[string]string{"driver": localDriver}
	maps.Copy(all, attributes)
	s.cfg.Events.Publish(&berthv1.Event{Type: "volume", Action: action, Id: name, Attributes: all})
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
	fits, err := filter.Parse("volumes", filters, map[string]filter.Key[*record]{
		"name":     filter.Matches(func(r *record) []string { return []string{r.Name} }),
		"driver":   filter.Equals(func(*record) string { return localDriver }),
		"dangling": filter.Bool(func(r *record) bool { return len(r.Users) == 0 }),
		"label":    filter.Label(func(r *record) map[string]string { return r.Labels }),
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Volume
	for _, r := range s.volumes {
		if fits(r) {
			list = append(list, s.volume(r))
		}
	}
	slices.SortFunc(list, func(a, b Volume) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}
