package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// which containers a command is about.
type which int

const (
	anyState which = iota
	running
	stopped
)

type completion = func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeContainers offers names of containers for the first count arguments; 0: for all.
func (a *app) completeContainers(count int, state which) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if count > 0 && len(args) >= count {
			return nil, cobra.ShellCompDirectiveDefault
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		answer, err := conn.Containers.ListContainers(cmd.Context(), &berthv1.ListContainersRequest{All: state != running})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []cobra.Completion
		for _, container := range answer.GetContainers() {
			runs := container.GetState().GetStatus() == berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING
			if (state == stopped && runs) || !strings.HasPrefix(container.GetName(), typed) {
				continue
			}
			names = append(names, cobra.CompletionWithDesc(container.GetName(), format.Name(container.GetImage())))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeImages offers names of images for the first count arguments; 0: for all.
func (a *app) completeImages(count int) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if count > 0 && len(args) >= count {
			return nil, cobra.ShellCompDirectiveDefault
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		answer, err := conn.Images.ListImages(cmd.Context(), &berthv1.ListImagesRequest{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []cobra.Completion
		for _, image := range answer.GetImages() {
			for _, tag := range image.GetTags() {
				if name := format.Name(tag); strings.HasPrefix(name, typed) {
					names = append(names, name)
				}
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNames offers what list answers for the first count arguments; 0: for all.
func (a *app) completeNames(count int, list func(ctx context.Context, conn *client.Client) ([]string, error)) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if count > 0 && len(args) >= count {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names, err := list(cmd.Context(), conn)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, typed) }), cobra.ShellCompDirectiveNoFileComp
	}
}

func networkList(ctx context.Context, conn *client.Client) (names []string, err error) {
	answer, err := conn.Networks.ListNetworks(ctx, &berthv1.ListNetworksRequest{})
	for _, network := range answer.GetNetworks() {
		names = append(names, network.GetConfig().GetName())
	}
	return names, err
}

func volumeList(ctx context.Context, conn *client.Client) (names []string, err error) {
	answer, err := conn.Volumes.ListVolumes(ctx, &berthv1.ListVolumesRequest{})
	for _, volume := range answer.GetVolumes() {
		names = append(names, volume.GetName())
	}
	return names, err
}

// completeAllFlags is completeFlags for a command and all below it.
func (a *app) completeAllFlags(cmd *cobra.Command) {
	a.completeFlags(cmd)
	for _, c := range cmd.Commands() {
		a.completeAllFlags(c)
	}
}

// completeFlags offers values for the flags that a command has of those whose values are known.
func (a *app) completeFlags(cmd *cobra.Command) {
	fixed := map[string][]string{
		"pull": {"missing", "always", "never"}, "restart": {"no", "on-failure", "always", "unless-stopped"},
		"log-driver": {"json-file", "none"}, "runtime": {"berth-runtime", "runc", "crun"}, "cgroupns": {"private", "host"}, "uts": {"host"},
		"ipc": {"shareable", "private", "none", "host", "container:"}, "pid": {"host", "container:"},
		"signal": signalNames(), "stop-signal": signalNames(), "cap-add": capabilityNames(), "cap-drop": capabilityNames(),
		"attach": {"stdin", "stdout", "stderr"}, "security-opt": {"apparmor=", "label=disable", "no-new-privileges", "seccomp=", "systempaths=unconfined"},
	}
	for name, values := range fixed {
		if cmd.Flags().Lookup(name) != nil && len(cmd.Flags().Lookup(name).Value.Type()) > len("bool") {
			_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	if cmd.Flags().Lookup("network") != nil {
		_ = cmd.RegisterFlagCompletionFunc("network", a.completeNames(0, networkList))
	}
	if cmd.Flags().Lookup("volume") != nil {
		_ = cmd.RegisterFlagCompletionFunc("volume", func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			names, _ := a.completeNames(0, volumeList)(cmd, args, typed)
			return names, cobra.ShellCompDirectiveNoSpace // paths of the host too
		})
	}
}

func signalNames() (names []string) {
	for number := unix.Signal(1); number < 32; number++ {
		if name := unix.SignalName(number); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func capabilityNames() []string {
	return []string{
		"ALL", "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH",
		"FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN",
		"NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT",
		"SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM",
	}
}
