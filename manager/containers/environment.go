package containers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/manager/bundle"
	"github.com/berthd/berth/manager/networks"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// joined is a namespace that a container may share with another one.
type joined struct {
	kind  specs.LinuxNamespaceType
	file  string // below /proc/PID/ns
	asked string
}

func joinable(spec *berthv1.ContainerSpec) []joined {
	asked := spec.GetNamespaces()
	return []joined{
		{specs.PIDNamespace, "pid", asked.GetPid()},
		{specs.IPCNamespace, "ipc", asked.GetIpc()},
		{specs.UTSNamespace, "uts", asked.GetUts()},
		{specs.CgroupNamespace, "cgroup", asked.GetCgroup()},
	}
}

// bundleRequest gathers what the OCI configuration is made of.
func (s *Service) bundleRequest(c *container, size *berthv1.TerminalSize) (bundle.Request, error) {
	message := c.snapshot()
	joins, err := s.joins(message)
	if err != nil {
		return bundle.Request{}, err
	}
	return bundle.Request{
		ID: c.id, Dir: c.bundle, Spec: message.GetSpec(), Process: message.GetProcess(), Hostname: hostname(message),
		Mounts: message.GetMounts(), Joins: joins, CgroupParent: s.cfg.CgroupParent, Init: s.cfg.Init, TTYSize: size,
	}, nil
}

// joins finds the namespaces that the container does not get of its own: those of other containers, and the network
// namespace that connect makes.
func (s *Service) joins(message *berthv1.Container) (map[specs.LinuxNamespaceType]string, error) {
	joins := map[specs.LinuxNamespaceType]string{}
	for _, namespace := range joinable(message.GetSpec()) {
		target, shared := strings.CutPrefix(namespace.asked, "container:")
		if !shared {
			continue
		}
		path, err := s.namespaceOf(target, namespace.file)
		if err != nil {
			return nil, err
		}
		joins[namespace.kind] = path
	}
	mode, target, err := networks.ParseMode(message.GetSpec().GetNetwork())
	if err != nil {
		return nil, err
	}
	switch {
	case ownsNetns(mode):
		joins[specs.NetworkNamespace] = s.netnsPath(message.GetId())
	case mode == networks.ModeContainer:
		if joins[specs.NetworkNamespace], err = s.namespaceOf(target, "net"); err != nil {
			return nil, err
		}
	}
	return joins, nil
}

func (s *Service) namespaceOf(ref, file string) (string, error) {
	other, err := s.find(ref)
	if err != nil {
		return "", fmt.Errorf("cannot join the %s namespace: %w", file, err)
	}
	message := other.snapshot()
	if !isActive(message.GetState().GetStatus()) {
		return "", errRunsNoMore(message.GetName())
	}
	return fmt.Sprintf("/proc/%d/ns/%s", message.GetState().GetPid(), file), nil
}

// writeBundle mounts the root file system and writes config.json and the files that the container sees in /etc, except
// for hosts, which needs the addresses. It returns the environment of the container's process.
func (s *Service) writeBundle(ctx context.Context, c *container, request bundle.Request) ([]string, error) {
	if err := s.mountRootfs(ctx, c); err != nil {
		return nil, err
	}
	resolv, err := s.cfg.Networks.ResolvConf(request.Spec.GetNetwork())
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{bundle.HostnameFile: []byte(request.Hostname + "\n"), bundle.ResolvConfFile: resolv} {
		if err := os.WriteFile(filepath.Join(c.bundle, name), content, 0o644); err != nil {
			return nil, fmt.Errorf("cannot write the container's /etc/%s: %w", name, err)
		}
	}
	return bundle.Write(request)
}
