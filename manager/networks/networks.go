// Package networks connects containers: it keeps the networks of this host, runs CNI plugin chains to attach
// containers to them, hands out host ports, and writes the files that name resolution in a container needs.
package networks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containernetworking/cni/libcni"
	"go.etcd.io/bbolt"

	"github.com/berthd/berth/cni-plugins/inprocess"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/events"
	"github.com/berthd/berth/manager/namelock"
	"github.com/berthd/berth/manager/store"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Config is what a Service works with.
type Config struct {
	DB *bbolt.DB
	// ID is the daemon's: it marks the bridges that are made.
	ID string
	// Bridge is the interface of the default network, Subnet its addresses. Without one, addresses are chosen that the host does not use.
	Bridge string
	Subnet netip.Prefix
	// Table is the nftables table that the plugins keep their rules in.
	Table string
	// StateDir holds leases of addresses and libcni's results; it lies below the daemon's state directory.
	StateDir string
	// PluginDirs are searched for plugins that are not ours.
	PluginDirs []string
	// Events is told of what happens to networks.
	Events *events.Broker
	Logger *slog.Logger
}

// Service is the networks of one host.
type Service struct {
	cfg         Config
	exec        *inprocess.Exec
	cni         *libcni.CNIConfig
	repairs     *libcni.CNIConfig // whose CHECK puts back what is missing
	definitions *store.Table[definition]
	attachments attachmentDir
	ports       *ports
	// busy is locked, by a container's ID, while the container is attached, detached or repaired.
	busy  namelock.Locks
	watch watch

	mu       sync.Mutex             // held for moments only, never while a plugin runs
	networks map[string]*definition // by name
	attached map[string]*attachment // by container
	entered  map[string]int         // by network: how many containers are being attached or detached
	removing map[string]bool        // networks that are being removed, or whose bridges are
}

// Request asks to connect a container.
type Request struct {
	ContainerID string
	// NetnsPath is the container's network namespace, as /proc/PID/ns/net. Unused with the modes host and container.
	NetnsPath string
	Spec      *berthv1.NetworkSpec
	// ExposedPorts are the image's and the spec's, as "80/tcp": published if Spec.publish_all.
	ExposedPorts []string
}

// Result is how a container is connected.
type Result struct {
	Endpoints []*berthv1.EndpointState
	// Ports are the mappings in use, with the host ports that were chosen.
	Ports []*berthv1.PortMapping
}

// Mode is a parsed NetworkSpec.mode.
type Mode int

// The modes.
const (
	ModeNetworks Mode = iota
	ModeNone
	ModeHost
	ModeContainer
)

// ParseMode tells how spec wants to be connected. For ModeContainer, target is the reference of the other container,
// whose namespace the caller makes this one join; Attach then has nothing to do.
func ParseMode(spec *berthv1.NetworkSpec) (mode Mode, target string, err error) {
	switch m := spec.GetMode(); {
	case m == "" || m == "networks":
		return ModeNetworks, "", nil
	case m == "none":
		return ModeNone, "", nil
	case m == "host":
		return ModeHost, "", nil
	case strings.HasPrefix(m, "container:") && len(m) > len("container:"):
		return ModeContainer, strings.TrimPrefix(m, "container:"), nil
	default:
		return 0, "", invalid("the network mode %q is not known: want none, host, container:NAME, or networks by their names", m)
	}
}

func invalid(format string, args ...any) error {
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf(format, args...))
}

// New opens the networks recorded in cfg.DB.
func New(cfg Config) (*Service, error) {
	definitions, err := store.NewTable[definition](cfg.DB, "networks", 1)
	if err != nil {
		return nil, err
	}
	cache := filepath.Join(cfg.StateDir, "cache")
	exec := inprocess.New()
	s := &Service{
		cfg: cfg, exec: exec, definitions: definitions, ports: newPorts(),
		attachments: attachmentDir(filepath.Join(cfg.StateDir, "attachments")),
		cni:         libcni.NewCNIConfigWithCacheDir(cfg.PluginDirs, cache, exec),
		repairs:     libcni.NewCNIConfigWithCacheDir(cfg.PluginDirs, cache, exec.Repairing()),
		entered:     map[string]int{}, removing: map[string]bool{},
	}
	if s.networks, err = definitions.All(cfg.Logger, nil); err != nil {
		return nil, err
	}
	if err := exec.CheckTable(context.Background(), cfg.Table); err != nil {
		if errors.Is(err, errdefs.ErrFailedPrecondition) || errors.Is(err, errdefs.ErrInvalidArgument) {
			return nil, err
		}
		cfg.Logger.Warn("containers can't be connected", "error", err)
	}
	if err := s.predefine(); err != nil {
		return nil, err
	}
	s.attached, err = s.attachments.load(cfg.Logger, s.assume)
	return s, err
}

// Close removes what is on the host of networks that no container uses. Containers that run stay connected. It may be called again.
func (s *Service) Close(ctx context.Context) error {
	s.watch.end()
	s.ports.releaseAll()
	return s.removeIdle(ctx)
}

// enter keeps networks from being removed until leave is called. It never waits: a network that is being removed is refused.
func (s *Service) enter(endpoints []endpoint) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range endpoints {
		if s.removing[e.Network] {
			return nil, errdefs.As(errdefs.ErrAborted, fmt.Errorf("network %q is being removed", e.Network))
		}
	}
	for _, e := range endpoints {
		s.entered[e.Network]++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, e := range endpoints {
			if s.entered[e.Network]--; s.entered[e.Network] == 0 {
				delete(s.entered, e.Network)
			}
		}
	}, nil
}

// user says why a network can't be removed now; it is empty if it can. s.mu is held.
func (s *Service) user(name string) string {
	if s.entered[name] > 0 || s.removing[name] {
		return "it is being changed by another call"
	}
	for id, a := range s.attached {
		for _, e := range a.Endpoints {
			if e.Network == name {
				return fmt.Sprintf("container %.12s is connected to it", id)
			}
		}
	}
	return ""
}

// removeIdle removes the bridges of networks without containers, and the table of rules if nothing of anybody is in it.
func (s *Service) removeIdle(ctx context.Context) error {
	s.mu.Lock()
	var idle []*definition
	for _, d := range s.networks {
		if d.Driver == driverBridge && s.user(d.Name) == "" {
			s.removing[d.Name] = true
			idle = append(idle, d)
		}
	}
	all := len(idle) == s.bridges()
	s.mu.Unlock()
	var errs []error
	for _, d := range idle {
		if err := s.exec.DeleteBridge(ctx, d.Bridge); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove the bridge of network %q: %w", d.Name, err))
		}
	}
	if all {
		if err := s.exec.DeleteTable(ctx, s.cfg.Table); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove the rules of all networks: %w", err))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range idle {
		delete(s.removing, d.Name)
	}
	return errors.Join(errs...)
}

// bridges is the number of networks with a bridge. s.mu is held.
func (s *Service) bridges() (n int) {
	for _, d := range s.networks {
		if d.Driver == driverBridge {
			n++
		}
	}
	return n
}

func (s *Service) publish(action string, d *definition, attributes map[string]string) {
	if s.cfg.Events == nil {
		return
	}
	all := map[string]string{"name": d.Name, "type": d.Driver}
	maps.Copy(all, attributes)
	s.cfg.Events.Publish(&berthv1.Event{Type: "network", Action: action, Id: d.ID, Attributes: all})
}
