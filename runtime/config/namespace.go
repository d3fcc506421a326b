package config

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func hasNamespace(linux *specs.Linux, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

func checkNamespaces(namespaces []specs.LinuxNamespace) error {
	var seen []specs.LinuxNamespaceType
	for i, namespace := range namespaces {
		field := at("linux.namespaces", i)
		if err := checkOneOf(field+".type", namespace.Type, specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace,
			specs.IPCNamespace, specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace); err != nil {
			return err
		}
		if slices.Contains(seen, namespace.Type) {
			return invalid(field+".type", "%s is given twice", namespace.Type)
		}
		seen = append(seen, namespace.Type)
		if namespace.Path != "" && !path.IsAbs(namespace.Path) {
			return invalid(field+".path", "%q is not an absolute path", namespace.Path)
		}
	}
	return nil
}

// checkMappings refuses what the kernel would with a bare EINVAL.
func checkMappings(field string, mappings []specs.LinuxIDMapping) error {
	const most = 340
	if len(mappings) > most {
		return invalid(field, "%d mappings are more than the kernel's %d", len(mappings), most)
	}
	for i, m := range mappings {
		if m.Size == 0 {
			return invalid(at(field, i)+".size", "it must be more than zero")
		}
		for _, other := range mappings[:i] {
			if overlap(m.ContainerID, other.ContainerID, m.Size, other.Size) || overlap(m.HostID, other.HostID, m.Size, other.Size) {
				return invalid(at(field, i), "it overlaps with one before it")
			}
		}
	}
	return nil
}

func overlap(a, b, sizeOfA, sizeOfB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeOfB) && uint64(b) < uint64(a)+uint64(sizeOfA)
}

func checkUserNamespace(linux *specs.Linux) error {
	i := slices.IndexFunc(linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	switch {
	case i < 0 && len(linux.UIDMappings) > 0:
		return invalid("linux.uidMappings", "it needs a user namespace, which linux.namespaces does not have")
	case i < 0 && len(linux.GIDMappings) > 0:
		return invalid("linux.gidMappings", "it needs a user namespace, which linux.namespaces does not have")
	case i < 0 || linux.Namespaces[i].Path != "":
		return nil
	case len(linux.UIDMappings) == 0:
		return invalid("linux.uidMappings", "a new user namespace needs it")
	case len(linux.GIDMappings) == 0:
		return invalid("linux.gidMappings", "a new user namespace needs it")
	}
	return nil
}

func checkTimeOffsets(linux *specs.Linux) error {
	for clock, offset := range linux.TimeOffsets {
		field := "linux.timeOffsets." + clock
		if err := checkOneOf(field, clock, "monotonic", "boottime"); err != nil {
			return err
		}
		if offset.Nanosecs >= 1e9 {
			return invalid(field+".nanosecs", "%d is a second or more", offset.Nanosecs)
		}
	}
	if len(linux.TimeOffsets) > 0 && !hasNamespace(linux, specs.TimeNamespace) {
		return invalid("linux.timeOffsets", "it needs a time namespace, which linux.namespaces does not have")
	}
	return nil
}

func checkNetDevices(linux *specs.Linux) error {
	for name, device := range linux.NetDevices {
		for _, text := range []string{name, device.Name} {
			const longest = 15
			if len(text) > longest || text == "." || text == ".." || strings.ContainsAny(text, "/: \t\n") {
				return invalid("linux.netDevices", "%q can't be the name of a network device", text)
			}
		}
		if name == "" {
			return invalid("linux.netDevices", "a device has no name")
		}
	}
	if len(linux.NetDevices) > 0 && !hasNamespace(linux, specs.NetworkNamespace) {
		return invalid("linux.netDevices", "it needs a network namespace, which linux.namespaces does not have")
	}
	return nil
}

// checkSysctls refuses settings that no namespace of the container holds, as they would change the host.
func checkSysctls(linux *specs.Linux) error {
	for _, name := range sortedKeys(linux.Sysctl) {
		field := fmt.Sprintf("linux.sysctl %q", name)
		kind, known := SysctlNamespace(name)
		switch {
		case SysctlPath(name) == "kernel/hostname":
			return invalid(field, "the field hostname is for that")
		case !known:
			return invalid(field, "it is not in a namespace, so that it would change the whole host")
		case !hasNamespace(linux, kind):
			return invalid(field, "it needs a %s namespace, which linux.namespaces does not have", kind)
		}
	}
	return nil
}

// SysctlPath returns the path of a setting below /proc/sys. Where a dot comes before a slash, the dots are those of sysctl(8)
// between the parts of the name, and a slash is a dot in the name of an interface.
func SysctlPath(name string) string {
	if slash, dot := strings.IndexByte(name, '/'), strings.IndexByte(name, '.'); slash >= 0 && (dot < 0 || dot > slash) {
		return name
	}
	return exchange(name)
}

func exchange(name string) string { return strings.NewReplacer(".", "/", "/", ".").Replace(name) }

// SysctlNamespace tells which namespace holds a setting. Both ways of writing are known: net.ipv4.ip_forward, and
// net/ipv4/ip_forward, which can also name an interface with a dot in it.
func SysctlNamespace(name string) (specs.LinuxNamespaceType, bool) {
	const ipc = " kernel.msgmax kernel.msgmnb kernel.msgmni kernel.msg_next_id kernel.sem kernel.sem_next_id kernel.shmall" +
		" kernel.shmmax kernel.shmmni kernel.shm_next_id kernel.shm_rmid_forced "
	const uts = " kernel.hostname kernel.domainname "
	name = exchange(SysctlPath(name))
	for part := range strings.SplitSeq(name, ".") { // a slash stands for a dot, and dots alone would lead elsewhere
		if strings.Trim(part, "/") == "" {
			return "", false
		}
	}
	switch {
	case strings.Contains(name, " "):
		return "", false
	case strings.HasPrefix(name, "net."):
		return specs.NetworkNamespace, true
	case strings.HasPrefix(name, "fs.mqueue.") || strings.Contains(ipc, " "+name+" "):
		return specs.IPCNamespace, true
	case strings.Contains(uts, " "+name+" "):
		return specs.UTSNamespace, true
	case strings.HasPrefix(name, "user."):
		return specs.UserNamespace, true
	}
	return "", false
}

func sortedKeys(values map[string]string) []string {
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
