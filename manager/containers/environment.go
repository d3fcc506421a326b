package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/manager/bundle"
	"github.com/berthd/berth/manager/networks"
	"github.com/berthd/berth/manager/rootfs"
	"github.com/berthd/berth/manager/sharing"
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

// resolveReferences replaces the references to other containers by their IDs: a name may be another container's when the
// container is started.
func (s *Service) resolveReferences(spec *berthv1.ContainerSpec) error {
	namespaces, network := spec.GetNamespaces(), spec.GetNetwork()
	var fields []*string
	if namespaces != nil {
		fields = append(fields, &namespaces.Pid, &namespaces.Ipc, &namespaces.Uts, &namespaces.Cgroup)
	}
	if network != nil {
		fields = append(fields, &network.Mode)
	}
	for _, field := range fields {
		target, shared := strings.CutPrefix(*field, "container:")
		if !shared {
			continue
		}
		other, err := s.find(target)
		if err != nil {
			return fmt.Errorf("cannot join the namespaces of a container: %w", err)
		}
		*field = "container:" + other.id
	}
	return nil
}

// bundleRequest gathers what the OCI configuration is made of. The caller closes the handles when the container is made.
func (s *Service) bundleRequest(ctx context.Context, c *container, size *berthv1.TerminalSize, handles *sharing.Handles) (bundle.Request, error) {
	message := c.snapshot()
	joins, err := s.joins(ctx, message, handles)
	if err != nil {
		return bundle.Request{}, err
	}
	request := bundle.Request{
		ID: c.id, Dir: c.bundle, Spec: message.GetSpec(), Process: message.GetProcess(), Hostname: s.hostname(message),
		Mounts: message.GetMounts(), Joins: joins, CgroupParent: s.cfg.CgroupParent, Init: s.cfg.Init, TTYSize: size,
	}
	if security := message.GetSpec().GetSecurity(); security.GetApparmorProfile() == "" && !security.GetPrivileged() {
		request.AppArmorProfile, err = s.cfg.AppArmor.Ensure(ctx)
	}
	return request, err
}

// joins finds the namespaces that the container does not get of its own: those of other containers, and the network
// namespace that connect makes.
func (s *Service) joins(ctx context.Context, message *berthv1.Container, handles *sharing.Handles) (map[specs.LinuxNamespaceType]string, error) {
	joins := map[specs.LinuxNamespaceType]string{}
	join := func(kind specs.LinuxNamespaceType, file, target string) (err error) {
		joins[kind], err = s.openNamespace(ctx, target, file, handles)
		return err
	}
	for _, namespace := range joinable(message.GetSpec()) {
		if target, shared := strings.CutPrefix(namespace.asked, "container:"); shared {
			if err := join(namespace.kind, namespace.file, target); err != nil {
				return nil, err
			}
		}
	}
	mode, target, err := networks.ParseMode(message.GetSpec().GetNetwork())
	if err != nil {
		return nil, err
	}
	switch {
	case ownsNetns(mode):
		joins[specs.NetworkNamespace] = s.netnsPath(message.GetId())
	case mode == networks.ModeContainer:
		err = join(specs.NetworkNamespace, "net", target)
	}
	return joins, err
}

// openNamespace opens a namespace of a running container; for ipc, its mount namespace too, where /dev/shm is.
func (s *Service) openNamespace(ctx context.Context, ref, file string, handles *sharing.Handles) (path string, err error) {
	other, err := s.find(ref)
	if err != nil {
		return "", fmt.Errorf("cannot join the %s namespace: %w", file, err)
	}
	message := other.snapshot()
	current := other.active()
	if current == nil || !isActive(message.GetState().GetStatus()) {
		return "", errRunsNoMore(message.GetName())
	}
	pid := message.GetState().GetPid()
	path, err = handles.Namespace(pid, file)
	if err == nil && file == "ipc" {
		err = handles.Mounts(pid)
	}
	if err != nil {
		return "", fmt.Errorf("cannot join the namespaces of container %q: %w", message.GetName(), err)
	}
	// The shim has not reaped its process, so the ID was not another process's when the namespace was opened.
	ctx, cancel := context.WithTimeout(ctx, shimAnswerLimit)
	defer cancel()
	state, err := current.task().State(ctx, "")
	if err != nil {
		return "", fmt.Errorf("cannot join the namespaces of container %q: %w", message.GetName(), err)
	}
	if state.Pid != pid || !state.Running && !state.Paused {
		return "", errRunsNoMore(message.GetName())
	}
	return path, nil
}

// shimAnswerLimit bounds how long the shim of another container is waited for.
const shimAnswerLimit = 10 * time.Second

// writeBundle mounts the root file system and writes config.json and the files that the container sees in /etc, except
// for hosts, which needs the addresses. It returns the environment of the container's process.
func (s *Service) writeBundle(ctx context.Context, c *container, request bundle.Request) ([]string, error) {
	if err := s.mountRootfs(ctx, c); err != nil {
		return nil, err
	}
	c.recordApparmor(bundle.AppArmorProfile(request))
	if err := rootfs.LinkMtab(filepath.Join(c.bundle, bundle.RootfsDir)); err != nil {
		return nil, err
	}
	mode, target, err := networks.ParseMode(request.Spec.GetNetwork())
	if err != nil {
		return nil, err
	}
	if mode == networks.ModeContainer {
		if err := s.shareFiles(c, target); err != nil {
			return nil, err
		}
		return bundle.Write(request)
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

// recordApparmor keeps the profile of the run that begins. It is written down with the run's other facts.
func (c *container) recordApparmor(profile string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.message.State.ApparmorProfile = profile
}

// shareFiles gives a container the files in /etc of the one whose network it shares: they say which names have which
// addresses there. Each is one file with two names, so that a change in one container is seen in the other.
func (s *Service) shareFiles(c *container, ref string) error {
	other, err := s.find(ref)
	if err != nil {
		return err
	}
	for _, name := range []string{bundle.HostnameFile, bundle.HostsFile, bundle.ResolvConfFile} {
		path := filepath.Join(c.bundle, name)
		err := os.Remove(path) // makeBundle has made an empty one
		if err == nil || errors.Is(err, os.ErrNotExist) {
			err = os.Link(filepath.Join(other.bundle, name), path)
		}
		if err != nil {
			return fmt.Errorf("cannot share /etc/%s of container %q: %w", name, other.snapshot().GetName(), err)
		}
	}
	return nil
}

// hostname is the container's host name: its own, the host's, or that of the container whose network it shares.
func (s *Service) hostname(message *berthv1.Container) string {
	const chain = 16 // of containers that share one network; records of old daemons may form a ring
	for range chain {
		spec := message.GetSpec()
		mode, target, err := networks.ParseMode(spec.GetNetwork())
		switch {
		case spec.GetHostname() != "":
			return spec.GetHostname()
		case mode == networks.ModeHost || spec.GetNamespaces().GetUts() == "host":
			if name, err := os.Hostname(); err == nil {
				return name
			}
		case err == nil && mode == networks.ModeContainer:
			if other, err := s.find(target); err == nil {
				message = other.snapshot()
				continue
			}
		}
		break
	}
	return short(message.GetId())
}
