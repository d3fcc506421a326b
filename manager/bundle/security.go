package bundle

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/confinement"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/apparmor"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const unconfined = "unconfined"

func addSecurity(request Request, spec *specs.Spec) error {
	security := request.Spec.GetSecurity()
	if !security.GetPrivileged() {
		spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = confinement.MaskedPaths(), confinement.ReadonlyPaths()
	}
	if list := security.GetMaskedPaths(); list != nil {
		spec.Linux.MaskedPaths = list.GetValues()
	}
	if list := security.GetReadonlyPaths(); list != nil {
		spec.Linux.ReadonlyPaths = list.GetValues()
	}
	spec.Linux.Sysctl = sysctls(request)
	for _, label := range security.GetSelinuxLabels() {
		if label != "disable" {
			return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("not implemented: SELinux labels (%q)", label))
		}
	}
	if err := addAppArmor(request, spec); err != nil {
		return err
	}
	return addSeccomp(request, spec)
}

// AppArmorProfile is the profile that a container is confined by; empty: none.
func AppArmorProfile(request Request) string {
	security := request.Spec.GetSecurity()
	switch profile := security.GetApparmorProfile(); {
	case profile == unconfined, profile == "" && security.GetPrivileged():
		return ""
	case profile == "":
		return request.AppArmorProfile
	default:
		return profile
	}
}

func addAppArmor(request Request, spec *specs.Spec) error {
	profile := AppArmorProfile(request)
	if profile != "" && !apparmor.Enabled() {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot use AppArmor profile %q: the host has no AppArmor", profile))
	}
	spec.Process.ApparmorProfile = profile
	return nil
}

func addSeccomp(request Request, spec *specs.Spec) (err error) {
	security := request.Spec.GetSecurity()
	profile := security.GetSeccompProfile()
	switch {
	case profile == unconfined, profile == "" && security.GetPrivileged():
	case profile == "":
		spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(spec)
	default:
		spec.Linux.Seccomp, err = seccomp.LoadProfile(profile, spec)
	}
	if err != nil {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid seccomp_profile: %w", err))
	}
	return nil
}

// CheckSysctls refuses parameters that are not of a namespace which the container has to itself: they would change the
// host, or the container whose namespace it is.
func CheckSysctls(spec *berthv1.ContainerSpec) error {
	shared := func(asked string) bool { return hostNamespace(asked) || strings.HasPrefix(asked, "container:") }
	for name := range spec.GetSecurity().GetSysctls() {
		kind, namespace := sysctlNamespace(name)
		switch {
		case kind == "":
			return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid sysctl %q: it is of no namespace, and would change the whole host", name))
		case shared(namespace(spec)):
			return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid sysctl %q: the %s namespace is not the container's own", name, kind))
		}
	}
	return nil
}

// sysctlNamespace tells which namespace a kernel parameter belongs to, and which one a container asks for.
func sysctlNamespace(name string) (kind string, asked func(*berthv1.ContainerSpec) string) {
	name = strings.ReplaceAll(name, "/", ".")
	switch {
	case strings.HasPrefix(name, "net."):
		return "network", func(s *berthv1.ContainerSpec) string { return s.GetNetwork().GetMode() }
	case name == "kernel.hostname" || name == "kernel.domainname":
		return "uts", func(s *berthv1.ContainerSpec) string { return s.GetNamespaces().GetUts() }
	case strings.HasPrefix(name, "fs.mqueue."), slices.Contains([]string{
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
	}, name):
		return "ipc", func(s *berthv1.ContainerSpec) string { return s.GetNamespaces().GetIpc() }
	}
	return "", nil
}

// sysctls lets a container's processes use low ports and ping without privileges, in a network namespace of its own.
func sysctls(request Request) map[string]string {
	result := map[string]string{}
	mode := request.Spec.GetNetwork().GetMode()
	if !hostNamespace(mode) && !strings.HasPrefix(mode, "container:") {
		result["net.ipv4.ip_unprivileged_port_start"] = "0"
		result["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	for key, value := range request.Spec.GetSecurity().GetSysctls() {
		result[key] = value
	}
	return result
}
