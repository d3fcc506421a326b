package bundle

import (
	"fmt"
	"os"
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
	list = withSharedMemory(list, request)
	if hostNamespace(request.Spec.GetNetwork().GetMode()) {
		// sysfs can't be mounted anew for the network namespace of somebody else.
		for i := range list {
			if list[i].Destination == "/sys" && request.Spec.GetNamespaces().GetUser() != "" && !hostNamespace(request.Spec.GetNamespaces().GetUser()) {
				list[i] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "ro", "nosuid", "noexec", "nodev"}}
			}
		}
	}
	return list
}

// withSharedMemory gives /dev/shm the same scope as the IPC namespace: POSIX shared memory is files there. A new mount
// of mqueue shows the queues of the IPC namespace by itself, also on a host that has it mounted nowhere.
func withSharedMemory(list []specs.Mount, request Request) []specs.Mount {
	ipc := request.Spec.GetNamespaces().GetIpc()
	source := ""
	switch {
	case hostNamespace(ipc):
		source = "/dev/shm"
	case strings.HasPrefix(ipc, "container:"):
		source = filepath.Join(request.Dir, ShmDir)
	case ipc != "none":
		return list
	}
	list = slices.DeleteFunc(list, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
	if source == "" {
		return list
	}
	return append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: source, Options: []string{"rbind", "rprivate"}})
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

// addMounts puts the mounts in the order in which they are made: Linux's own file systems, then everything else by
// depth, so that no mount hides another one. A volume at /etc is mounted before /etc/hosts.
func addMounts(request Request, spec *specs.Spec) error {
	placed := fileMounts(request)
	if request.Spec.GetInit() {
		spec.Process.Args = append([]string{initPath, "--"}, spec.Process.Args...)
		placed = append(placed, specs.Mount{Destination: initPath, Type: "bind", Source: request.Init, Options: []string{"bind", "ro", "rprivate"}})
	}
	list := defaultMounts(request)
	for _, mount := range request.Mounts {
		converted, err := convertMount(mount)
		if err != nil {
			return err
		}
		target := converted.Destination
		placed = slices.DeleteFunc(placed, func(m specs.Mount) bool { return m.Destination == target })
		placed = append(placed, converted)
		// A file system below the target would be hidden by it.
		list = slices.DeleteFunc(list, func(m specs.Mount) bool {
			return m.Destination == target || strings.HasPrefix(m.Destination, target+"/")
		})
	}
	sort.SliceStable(placed, func(i, j int) bool { return depth(placed[i].Destination) < depth(placed[j].Destination) })
	spec.Mounts = append(list, placed...)
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
	return checkRelabel(mount)
}

// checkRelabel accepts relabelling where there are no labels: on a host without SELinux it means nothing.
func checkRelabel(mount *berthv1.Mount) error {
	switch mount.GetRelabel() {
	case "":
		return nil
	case "z", "Z":
		if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
			return nil //nolint:nilerr // SELinux is not there
		}
		return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("mount at %q: not implemented: relabelling for SELinux", mount.GetTarget()))
	}
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid mount at %q: unknown relabelling %q: want z or Z", mount.GetTarget(), mount.GetRelabel()))
}
