package bundle

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const defaultShmSize = 64 << 20

func defaultMounts(request Request) []specs.Mount {
	shm := request.Spec.GetShmSize()
	if shm == 0 {
		shm = defaultShmSize
	}
	readOnly := "ro"
	if request.Spec.GetSecurity().GetPrivileged() {
		readOnly = "rw"
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", readOnly}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{readOnly, "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(shm, 10)}},
	}
	if hostNamespace(request.Spec.GetNamespaces().GetIpc()) {
		// A new mount of mqueue shows the host's queues by itself, also on a host that has it mounted nowhere.
		list = slices.DeleteFunc(list, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
		list = append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "rprivate"}})
	}
	if hostNamespace(request.Spec.GetNetwork().GetMode()) {
		// sysfs can't be mounted anew for the network namespace of somebody else.
		for i := range list {
			if list[i].Destination == "/sys" && request.Spec.GetNamespaces().GetUser() != "" && !hostNamespace(request.Spec.GetNamespaces().GetUser()) {
				list[i] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "ro", "nosuid", "noexec", "nodev"}}
			}
		}
	}
	return append(list, fileMounts(request)...)
}

// fileMounts are the files that the manager writes for each container.
func fileMounts(request Request) []specs.Mount {
	var list []specs.Mount
	for _, name := range []string{ResolvConfFile, HostnameFile, HostsFile} {
		list = append(list, specs.Mount{
			Destination: "/etc/" + name, Type: "bind", Source: filepath.Join(request.Dir, name), Options: []string{"rbind", "rprivate"},
		})
	}
	return list
}

func addMounts(request Request, spec *specs.Spec) error {
	list := defaultMounts(request)
	if request.Spec.GetInit() {
		spec.Process.Args = append([]string{initPath, "--"}, spec.Process.Args...)
		list = append(list, specs.Mount{Destination: initPath, Type: "bind", Source: request.Init, Options: []string{"bind", "ro", "rprivate"}})
	}
	var asked []specs.Mount
	for _, mount := range request.Mounts {
		converted, err := convertMount(mount)
		if err != nil {
			return err
		}
		asked = append(asked, converted)
	}
	// What lies deeper is mounted later, so that nothing is hidden.
	sort.SliceStable(asked, func(i, j int) bool { return depth(asked[i].Destination) < depth(asked[j].Destination) })
	for _, mount := range asked {
		list = slices.DeleteFunc(list, func(m specs.Mount) bool { return m.Destination == mount.Destination })
	}
	spec.Mounts = append(list, asked...)
	return nil
}

func depth(destination string) int { return strings.Count(path.Clean(destination), "/") }

func convertMount(state *berthv1.MountState) (specs.Mount, error) {
	mount := state.GetMount()
	result := specs.Mount{Destination: path.Clean(mount.GetTarget())}
	access := "rw"
	if mount.GetReadOnly() {
		access = "ro"
	}
	switch mount.GetType() {
	case berthv1.MountType_MOUNT_TYPE_TMPFS:
		result.Type, result.Source = "tmpfs", "tmpfs"
		result.Options = append([]string{"nosuid", "nodev", "noexec", access}, mount.GetOptions()...)
	case berthv1.MountType_MOUNT_TYPE_BIND, berthv1.MountType_MOUNT_TYPE_VOLUME:
		propagation := mount.GetPropagation()
		if propagation == "" {
			propagation = "rprivate"
		}
		result.Type, result.Source = "bind", state.GetHostPath()
		result.Options = append([]string{"rbind", access, propagation}, mount.GetOptions()...)
	default:
		return specs.Mount{}, errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("mount at %q: not implemented: mounts of type %s", mount.GetTarget(), mount.GetType()))
	}
	return result, nil
}

// CheckMount refuses a mount that could not work.
func CheckMount(mount *berthv1.Mount) error {
	invalid := func(format string, args ...any) error {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid mount at %q: "+format, append([]any{mount.GetTarget()}, args...)...))
	}
	target := path.Clean(mount.GetTarget())
	if !path.IsAbs(mount.GetTarget()) || target == "/" {
		return invalid("the target must be an absolute path other than /")
	}
	switch mount.GetType() {
	case berthv1.MountType_MOUNT_TYPE_BIND:
		if !path.IsAbs(mount.GetSource()) {
			return invalid("the source %q must be an absolute path of the host", mount.GetSource())
		}
	case berthv1.MountType_MOUNT_TYPE_TMPFS:
		if mount.GetSource() != "" {
			return invalid("a tmpfs has no source")
		}
	case berthv1.MountType_MOUNT_TYPE_VOLUME:
	case berthv1.MountType_MOUNT_TYPE_IMAGE:
		return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("mount at %q: not implemented: mounts of images", mount.GetTarget()))
	default:
		return invalid("it has no type")
	}
	propagations := []string{"", "private", "rprivate", "shared", "rshared", "slave", "rslave"}
	if !slices.Contains(propagations, mount.GetPropagation()) {
		return invalid("unknown propagation %q", mount.GetPropagation())
	}
	if mount.GetRelabel() != "" {
		return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("mount at %q: not implemented: relabelling for SELinux", mount.GetTarget()))
	}
	return nil
}
