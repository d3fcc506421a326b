package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// info is what the info command knows, with docker's names where docker has them.
type info struct {
	ID                string
	Name              string
	Containers        uint32
	ContainersRunning uint32
	ContainersPaused  uint32
	ContainersStopped uint32
	Images            uint32
	ServerVersion     string
	infoStorage
	infoRuntime
	infoHost
	Warnings []string
}

type infoStorage struct {
	DockerRootDir      string
	StateDir           string
	Driver             string
	ContentAddress     string `json:",omitempty"`
	SnapshotterAddress string `json:",omitempty"`
	LoggingDriver      string
}

type infoRuntime struct {
	CgroupDriver    string
	CgroupVersion   string
	DefaultRuntime  string
	Runtimes        []string
	SecurityOptions []string
}

type infoHost struct {
	OperatingSystem string
	KernelVersion   string
	Architecture    string
	NCPU            uint32
	MemTotal        int64
	Labels          []string
}

func newInfo(a *app) *cobra.Command {
	var layout string
	cmd := &cobra.Command{
		Use:   "info [OPTIONS]",
		Short: "Tell how berthd is set up and what its host offers",
		Args:  exactly(0),
	}
	cmd.Flags().StringVarP(&layout, "format", "f", "", "json, or a Go template")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		answer, err := conn.System.GetInfo(cmd.Context(), &berthv1.GetInfoRequest{})
		if err != nil {
			return err
		}
		known := newInfoDocument(answer)
		if layout != "" {
			return format.Object(a.out, layout, known)
		}
		a.printInfo(known)
		return nil
	}
	return cmd
}

func newInfoDocument(i *berthv1.GetInfoResponse) info {
	known := info{
		ID: i.GetId(), Name: i.GetName(), ServerVersion: i.GetVersion(), Images: i.GetImages(), Warnings: i.GetWarnings(),
		Containers:        i.GetContainersRunning() + i.GetContainersPaused() + i.GetContainersStopped(),
		ContainersRunning: i.GetContainersRunning(), ContainersPaused: i.GetContainersPaused(), ContainersStopped: i.GetContainersStopped(),
		infoStorage: infoStorage{
			DockerRootDir: i.GetRootDirectory(), StateDir: i.GetStateDirectory(), Driver: i.GetSnapshotter(), LoggingDriver: i.GetLogDriver(),
			ContentAddress: i.GetContentAddress(), SnapshotterAddress: i.GetSnapshotterAddress(),
		},
		infoRuntime: infoRuntime{
			CgroupDriver: i.GetCgroupDriver(), CgroupVersion: fmt.Sprint(i.GetCgroupVersion()),
			DefaultRuntime: i.GetDefaultRuntime(), Runtimes: i.GetRuntimes(), SecurityOptions: i.GetSecurityOptions(),
		},
		infoHost: infoHost{
			OperatingSystem: i.GetOperatingSystem(), KernelVersion: i.GetKernel(), Architecture: i.GetArchitecture(),
			NCPU: i.GetCpus(), MemTotal: i.GetMemory(),
		},
	}
	for name, value := range i.GetLabels() {
		known.Labels = append(known.Labels, name+"="+value)
	}
	slices.Sort(known.Labels)
	return known
}

func (a *app) printInfo(known info) {
	lines := []struct {
		title string
		value string
	}{
		{"Containers", fmt.Sprint(known.Containers)},
		{" Running", fmt.Sprint(known.ContainersRunning)},
		{" Paused", fmt.Sprint(known.ContainersPaused)},
		{" Stopped", fmt.Sprint(known.ContainersStopped)},
		{"Images", fmt.Sprint(known.Images)},
		{"Server Version", known.ServerVersion},
		{"Storage Driver", known.Driver},
		{"Content Store", known.ContentAddress},
		{"Snapshotter", known.SnapshotterAddress},
		{"Logging Driver", known.LoggingDriver},
		{"Cgroup Driver", known.CgroupDriver},
		{"Cgroup Version", known.CgroupVersion},
		{"Runtimes", strings.Join(known.Runtimes, " ")},
		{"Default Runtime", known.DefaultRuntime},
		{"Security Options", strings.Join(known.SecurityOptions, " ")},
		{"Kernel Version", known.KernelVersion},
		{"Operating System", known.OperatingSystem},
		{"Architecture", known.Architecture},
		{"CPUs", fmt.Sprint(known.NCPU)},
		{"Total Memory", units.BytesSize(float64(known.MemTotal))},
		{"Name", known.Name},
		{"ID", known.ID},
		{"Root Dir", known.DockerRootDir},
		{"State Dir", known.StateDir},
		{"Labels", strings.Join(known.Labels, " ")},
	}
	for _, line := range lines {
		if line.value != "" {
			fmt.Fprintf(a.out, "%s: %s\n", line.title, line.value)
		}
	}
	for _, warning := range known.Warnings {
		fmt.Fprintf(a.err, "WARNING: %s\n", warning)
	}
}
