// Package inspect turns what berthd knows of an object into the document that docker's inspect prints, so that people's
// formats and scripts go on working. What docker has and berth has not is left out rather than filled with zeros.
package inspect

import (
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Container is docker's document of a container.
type Container struct {
	ID      string `json:"Id"`
	Created string
	Path    string
	Args    []string
	State   State
	Image   string
	Name    string
	Storage
	Confinement
	RestartCount    uint32
	ExecIDs         []string
	HostConfig      HostConfig
	Mounts          []Mount
	Config          Config
	NetworkSettings NetworkSettings
}

// Confinement is what a container runs on and is held back by.
type Confinement struct {
	Platform        string
	AppArmorProfile string
}

// Storage is where a container's files are.
type Storage struct {
	ResolvConfPath string
	HostnamePath   string
	HostsPath      string
	LogPath        string
	BundlePath     string
	Driver         string
	GraphDriver    GraphDriver
	SizeRw         *int64 `json:",omitempty"`
	SizeRootFs     *int64 `json:",omitempty"`
}

// GraphDriver names the snapshotter that has the layers. Where it keeps them is its own affair: Data is empty.
type GraphDriver struct {
	Name string
	Data map[string]string
}

func newGraphDriver(snapshotter string) GraphDriver {
	return GraphDriver{Name: snapshotter, Data: map[string]string{}}
}

// newStorage returns where the files are. Those of the bundle are there while the container runs.
func newStorage(c *berthv1.Container) Storage {
	return Storage{
		ResolvConfPath: filepath.Join(c.GetBundle(), "resolv.conf"), HostnamePath: filepath.Join(c.GetBundle(), "hostname"),
		HostsPath: filepath.Join(c.GetBundle(), "hosts"), LogPath: c.GetLogPath(), BundlePath: c.GetBundle(),
		Driver: c.GetSnapshotter(), GraphDriver: newGraphDriver(c.GetSnapshotter()), SizeRw: c.SizeRw, SizeRootFs: c.SizeRootfs,
	}
}

// State is where a container is in its life.
type State struct {
	Status     string
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        uint32
	ExitCode   int32
	Error      string
	StartedAt  string
	FinishedAt string
	Health     *Health `json:",omitempty"`
}

// Health is the state of a health check.
type Health struct {
	Status        string
	FailingStreak uint32
	Log           []HealthProbe
}

// HealthProbe is one run of a health check.
type HealthProbe struct {
	Start    string
	End      string
	ExitCode int32
	Output   string
}

// Mount is something mounted into a container.
type Mount struct {
	Type        string
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
	Propagation string
}

// NewContainer returns the document of a container.
func NewContainer(c *berthv1.Container) Container {
	document := Container{
		ID: c.GetId(), Created: stamp(c.GetCreatedAt()), State: newState(c.GetState()), Image: c.GetImageId(), Name: "/" + c.GetName(),
		Storage: newStorage(c), Confinement: Confinement{Platform: "linux", AppArmorProfile: c.GetState().GetApparmorProfile()},
		RestartCount: c.GetState().GetRestartCount(), ExecIDs: c.GetExecIds(), Args: []string{}, Mounts: []Mount{},
		HostConfig: newHostConfig(c.GetSpec()), Config: newConfig(c), NetworkSettings: newNetworkSettings(c),
	}
	if command := c.GetCommand(); len(command) > 0 {
		document.Path, document.Args = command[0], append(document.Args, command[1:]...)
	}
	for _, mount := range c.GetMounts() {
		document.Mounts = append(document.Mounts, newMount(mount))
	}
	return document
}

func newState(s *berthv1.ContainerState) State {
	status := s.GetStatus()
	paused := status == berthv1.ContainerStatus_CONTAINER_STATUS_PAUSED
	restarting := status == berthv1.ContainerStatus_CONTAINER_STATUS_RESTARTING
	state := State{
		Status:  format.State(status),
		Running: paused || restarting || status == berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING, Paused: paused, Restarting: restarting,
		OOMKilled: s.GetOomKilled(), Dead: status == berthv1.ContainerStatus_CONTAINER_STATUS_DEAD,
		Pid: s.GetPid(), ExitCode: s.GetExitCode(), Error: s.GetError(),
		StartedAt: stamp(s.GetStartedAt()), FinishedAt: stamp(s.GetFinishedAt()),
	}
	if status := format.Health(s.GetHealth()); status != "" {
		state.Health = &Health{Status: status, FailingStreak: s.GetHealth().GetFailingStreak(), Log: []HealthProbe{}}
		for _, probe := range s.GetHealth().GetLog() {
			state.Health.Log = append(state.Health.Log, HealthProbe{
				Start: stamp(probe.GetStartedAt()), End: stamp(probe.GetFinishedAt()), ExitCode: probe.GetExitCode(), Output: probe.GetOutput(),
			})
		}
	}
	return state
}

func newMount(state *berthv1.MountState) Mount {
	mount := state.GetMount()
	options := append([]string(nil), mount.GetOptions()...)
	if mount.GetRelabel() != "" {
		options = append(options, mount.GetRelabel())
	}
	return Mount{
		Type: mountType(mount.GetType()), Name: state.GetVolume(), Source: state.GetHostPath(), Destination: mount.GetTarget(),
		Driver: state.GetDriver(), Mode: strings.Join(options, ","), RW: !mount.GetReadOnly(), Propagation: mount.GetPropagation(),
	}
}

func mountType(kind berthv1.MountType) string {
	return strings.ToLower(strings.TrimPrefix(kind.String(), "MOUNT_TYPE_"))
}

// stamp returns a time as docker does, with the year 1 for none.
func stamp(t *timestamppb.Timestamp) string {
	if !t.IsValid() || t.AsTime().Unix() <= 0 {
		return time.Time{}.Format(time.RFC3339Nano)
	}
	return t.AsTime().Format(time.RFC3339Nano)
}

// portKey names a port of a container as docker's maps do.
func portKey(port *berthv1.PortMapping) string {
	return strconv.FormatUint(uint64(port.GetContainerPort()), 10) + "/" + format.Protocol(port)
}
