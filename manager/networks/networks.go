// Package networks connects containers: it keeps the networks of this host, runs CNI plugin chains to attach
// containers to them, hands out host ports, and writes the files that name resolution in a container needs.
package networks

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/berthd/berth/internal/errdefs"
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
	cfg Config
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
	}
	return 0, "", errdefs.ErrInvalidArgument
}

// New opens the networks recorded in cfg.DB.
func New(cfg Config) (*Service, error) {
	return &Service{cfg: cfg}, nil
}

// Validate checks what can be known of spec before a container starts: its mode, networks, ports and addresses.
func (s *Service) Validate(spec *berthv1.NetworkSpec) error {
	return errdefs.ErrUnimplemented
}

// Attach connects a container that is not connected; for one that is, it answers how. On an error nothing is left.
func (s *Service) Attach(ctx context.Context, request Request) (Result, error) {
	return Result{}, errdefs.ErrUnimplemented
}

// Detach undoes Attach. It may be called again, and after the namespace is gone. The bridge of a network goes with
// the last container.
func (s *Service) Detach(ctx context.Context, containerID string) error {
	return errdefs.ErrUnimplemented
}

// GC detaches every container that is not in valid, holds again the host ports of those that are, and lets the
// plugins remove what they know of nobody. Call it once at start, before any Attach.
func (s *Service) GC(ctx context.Context, valid []string) error {
	return errdefs.ErrUnimplemented
}

// ResolvConf makes a container's /etc/resolv.conf from the host's and spec.
func (s *Service) ResolvConf(spec *berthv1.NetworkSpec) ([]byte, error) {
	return nil, errdefs.ErrUnimplemented
}

// HostsRequest is what goes into a container's /etc/hosts.
type HostsRequest struct {
	Hostname, Domainname string
	Spec                 *berthv1.NetworkSpec
	Endpoints            []*berthv1.EndpointState
}

// Hosts makes a container's /etc/hosts. It is made anew after each Attach.
func (s *Service) Hosts(request HostsRequest) ([]byte, error) {
	return nil, errdefs.ErrUnimplemented
}
