// Package capability turns the capability names of a config.json into the kernel's bit masks.
package capability

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Masks are the five sets of a process, a bit a capability.
type Masks struct {
	Bounding, Effective, Inheritable, Permitted, Ambient uint64
}

// names holds every capability in the kernel's order: the index is the number.
var names = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// Last is the highest capability that this package knows by name.
const Last = len(names) - 1

// Names returns every known capability in the kernel's order.
func Names() []string { return append([]string(nil), names[:]...) }

// Number returns the number of the capability called name, with its CAP_ prefix.
func Number(name string) (int, bool) {
	for number, known := range names {
		if known == name {
			return number, true
		}
	}
	return 0, false
}

// Sets returns the masks for capabilities, and the names in it that this package does not know, each once. As with
// runc, such a name is no error: a config.json written for a newer kernel still runs, without the capability.
func Sets(capabilities *specs.LinuxCapabilities) (Masks, []string) {
	if capabilities == nil {
		return Masks{}, nil
	}
	var unknown []string
	mask := func(set []string) uint64 {
		var bits uint64
		for _, name := range set {
			number, ok := Number(name)
			switch {
			case ok:
				bits |= 1 << number
			case !contains(unknown, name):
				unknown = append(unknown, name)
			}
		}
		return bits
	}
	return Masks{
		Bounding:    mask(capabilities.Bounding),
		Effective:   mask(capabilities.Effective),
		Inheritable: mask(capabilities.Inheritable),
		Permitted:   mask(capabilities.Permitted),
		Ambient:     mask(capabilities.Ambient),
	}, unknown
}

// KernelLast returns the highest capability that the running kernel has: bits above it must not be asked for.
func KernelLast() (int, error) {
	const file = "/proc/sys/kernel/cap_last_cap"
	content, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("cannot read the kernel's last capability: %w", err)
	}
	last, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return 0, fmt.Errorf("cannot understand %s: %w", file, err)
	}
	return last, nil
}

// Limit returns the masks without capabilities above last.
func (m Masks) Limit(last int) Masks {
	if last >= 63 {
		return m
	}
	known := uint64(1)<<(last+1) - 1
	m.Bounding &= known
	m.Effective &= known
	m.Inheritable &= known
	m.Permitted &= known
	m.Ambient &= known
	return m
}

func contains(list []string, wanted string) bool {
	for _, item := range list {
		if item == wanted {
			return true
		}
	}
	return false
}
