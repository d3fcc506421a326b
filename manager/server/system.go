package server

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/version"
	"github.com/berthd/berth/manager/apparmor"
	"github.com/berthd/berth/manager/containers"
	"github.com/berthd/berth/manager/images"
	"github.com/berthd/berth/manager/volumes"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Host is how the daemon is set up, which does not change while it runs.
type Host struct {
	ID                                 string
	Root, State                        string
	Snapshotter                        string
	Runtime, Shim                      string
	ContentAddress, SnapshotterAddress string
}

// System answers SystemService.
type System struct {
	berthv1.UnimplementedSystemServiceServer
	host       Host
	containers *containers.Service
	images     *images.Service
	volumes    *volumes.Service
}

// NewSystem makes the service.
func NewSystem(host Host, containers *containers.Service, images *images.Service, volumes *volumes.Service) *System {
	return &System{host: host, containers: containers, images: images, volumes: volumes}
}

// GetVersion tells versions.
func (s *System) GetVersion(ctx context.Context, _ *berthv1.GetVersionRequest) (*berthv1.GetVersionResponse, error) {
	return &berthv1.GetVersionResponse{
		Version: version.Release, Commit: version.Commit(), GoVersion: runtime.Version(), Os: runtime.GOOS, Architecture: runtime.GOARCH,
		Kernel: kernel(), Components: []*berthv1.Component{component(ctx, s.host.Runtime), component(ctx, s.host.Shim)},
	}, nil
}

// CheckAuth asks a registry whether it accepts credentials.
func (s *System) CheckAuth(ctx context.Context, request *berthv1.CheckAuthRequest) (*berthv1.CheckAuthResponse, error) {
	token, err := s.images.Login(ctx, request.GetRegistry(), credentialsOf(request.GetAuth()))
	if err != nil {
		return nil, err
	}
	return &berthv1.CheckAuthResponse{IdentityToken: token}, nil
}

// versionLimit is how long a program may take to tell its version.
const versionLimit = 5 * time.Second

// component asks a program for its version: "NAME version VERSION". It is empty if the program does not tell it.
func component(ctx context.Context, path string) *berthv1.Component {
	result := &berthv1.Component{Path: path, Name: path[strings.LastIndexByte(path, '/')+1:]}
	ctx, cancel := context.WithTimeout(ctx, versionLimit)
	defer cancel()
	command := exec.CommandContext(ctx, path, "--version")
	command.WaitDelay = time.Second
	output, err := command.Output()
	if err != nil {
		return result
	}
	line, _, _ := strings.Cut(string(output), "\n")
	if _, after, found := strings.Cut(line, "version "); found {
		line = after
	}
	result.Version = strings.TrimSpace(line)
	return result
}

func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// GetInfo tells about the host and the daemon.
func (s *System) GetInfo(ctx context.Context, _ *berthv1.GetInfoRequest) (*berthv1.GetInfoResponse, error) {
	info := &berthv1.GetInfoResponse{
		Id: s.host.ID, RootDirectory: s.host.Root, StateDirectory: s.host.State, Snapshotter: s.host.Snapshotter,
		CgroupDriver: "cgroupfs", CgroupVersion: cgroupVersion(), DefaultRuntime: containers.DefaultRuntime, Runtimes: containers.Runtimes(),
		SecurityOptions: securityOptions(), OperatingSystem: operatingSystem(), Kernel: kernel(), Architecture: runtime.GOARCH,
		Cpus: uint32(runtime.NumCPU()), LogDriver: "json-file", Warnings: warnings(),
		ContentAddress: s.host.ContentAddress, SnapshotterAddress: s.host.SnapshotterAddress, Version: version.Release,
	}
	var err error
	if info.Name, err = os.Hostname(); err != nil {
		return nil, err
	}
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil {
		return nil, os.NewSyscallError("sysinfo", err)
	}
	info.Memory = int64(memory.Totalram) * int64(memory.Unit)
	list, err := s.containers.List(ctx, containers.Query{All: true})
	if err != nil {
		return nil, err
	}
	for _, container := range list {
		switch container.GetState().GetStatus() {
		case berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING:
			info.ContainersRunning++
		case berthv1.ContainerStatus_CONTAINER_STATUS_PAUSED:
			info.ContainersPaused++
		default:
			info.ContainersStopped++
		}
	}
	if usage, err := s.images.Usage(ctx); err == nil {
		info.Images = uint32(usage.Total)
	}
	return info, nil
}

func cgroupVersion() uint32 {
	if cgroups.Mode() == cgroups.Unified {
		return 2
	}
	return 1
}

func securityOptions() []string {
	options := []string{"name=seccomp,profile=builtin"}
	if usable, _ := apparmor.Usable(); usable {
		options = append(options, "name=apparmor")
	}
	return options
}

// warnings tell what a container does without on this host.
func warnings() (list []string) {
	if _, err := apparmor.Usable(); err != nil {
		list = append(list, err.Error())
	}
	return list
}

func operatingSystem() string {
	content, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return runtime.GOOS
	}
	for line := range bytes.Lines(content) {
		if name, found := strings.CutPrefix(string(line), "PRETTY_NAME="); found {
			return strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	return runtime.GOOS
}

// GetDiskUsage tells what images, containers and volumes take.
func (s *System) GetDiskUsage(ctx context.Context, _ *berthv1.GetDiskUsageRequest) (*berthv1.GetDiskUsageResponse, error) {
	stored, err := s.images.Usage(ctx)
	if err != nil {
		return nil, err
	}
	made := s.containers.Usage(ctx)
	kept := &berthv1.DiskUsage{Kind: "Local Volumes"}
	list, err := s.volumes.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, volume := range list {
		size := sizeOf(ctx, volume.Mountpoint)
		kept.Total++
		kept.Size += size
		if len(volume.Containers) > 0 {
			kept.Active++
		} else {
			kept.Reclaimable += size
		}
	}
	return &berthv1.GetDiskUsageResponse{Usages: []*berthv1.DiskUsage{
		{Kind: "Images", Total: uint32(stored.Total), Active: uint32(stored.Active), Size: stored.Size, Reclaimable: stored.Reclaimable},
		{Kind: "Containers", Total: uint32(made.Total), Active: uint32(made.Active), Size: made.Size, Reclaimable: made.Reclaimable},
		kept,
	}}, nil
}
