// Package networks connects containers: it keeps the networks of this host, runs CNI plugin chains to attach
// containers to them, hands out host ports, and writes the files that name resolution in a container needs.
package networks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containernetworking/cni/libcni"
	"go.etcd.io/bbolt"

	"github.com/berthd/berth/cni-plugins/inprocess"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/store"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Config is what a Service works with.
type Config struct {
	DB *bbolt.DB
	// Bridge is the interface of the default network, Subnet its addresses.
	Bridge string
	Subnet netip.Prefix
	// Table is the nftables table that the plugins keep their rules in.
	Table string
	// StateDir holds leases of addresses and libcni's results; it lies below the daemon's state directory.
	StateDir string
	// PluginDirs are searched for plugins that are not ours.
	PluginDirs []string
	Logger     *slog.Logger
}

// Service is the networks of one host.
type Service struct {
	cfg         Config
	exec        *inprocess.Exec
	cni         *libcni.CNIConfig
	definitions *store.Table[definition]
	attachments attachmentDir
	ports       *ports

	// links is held for reading while a container is attached, and for writing while bridges are removed.
	links sync.RWMutex

	mu       sync.Mutex
	networks map[string]*definition // by name
	attached map[string]*attachment // by container
	busy     map[string]bool        // containers that are being attached or detached
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
	attachments := attachmentDir(filepath.Join(cfg.StateDir, "attachments"))
	exec := inprocess.New()
	s := &Service{
		cfg: cfg, exec: exec, definitions: definitions, attachments: attachments, ports: newPorts(), busy: map[string]bool{},
		cni: libcni.NewCNIConfigWithCacheDir(cfg.PluginDirs, filepath.Join(cfg.StateDir, "cache"), exec),
	}
	if s.networks, err = definitions.All(cfg.Logger, nil); err != nil {
		return nil, err
	}
	if s.attached, err = attachments.load(); err != nil {
		return nil, err
	}
	return s, s.predefine()
}

// Close removes what is on the host of networks that no container uses. Containers that run stay connected.
func (s *Service) Close(ctx context.Context) error {
	s.ports.releaseAll()
	return s.removeIdle(ctx)
}

// removeIdle removes bridges without containers, and the table of rules with the last of them.
func (s *Service) removeIdle(ctx context.Context) error {
	s.links.Lock()
	defer s.links.Unlock()
	s.mu.Lock()
	used := map[string]bool{}
	for _, a := range s.attached {
		for _, e := range a.Endpoints {
			used[e.Network] = true
		}
	}
	var idle []*definition
	for _, d := range s.networks {
		if d.Driver == driverBridge && !used[d.Name] {
			idle = append(idle, d)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, d := range idle {
		if err := s.exec.DeleteBridge(ctx, d.Bridge); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove the bridge of network %q: %w", d.Name, err))
		}
	}
	if len(used) == 0 {
		if err := s.exec.DeleteTable(ctx, s.cfg.Table); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove the rules of all networks: %w", err))
		}
	}
	return errors.Join(errs...)
}
