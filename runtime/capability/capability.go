// Package capability turns the capability names of a config.json into the kernel's bit masks.
package capability

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
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
	last := Last
	for last > 0 && !known(last) {
		last--
	}
	for known(last + 1) {
		last++
	}
	if last == 0 {
		return 0, errors.New("cannot find out which capabilities the kernel has")
	}
	return last, nil
}

func known(number int) bool {
	_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0)
	return err == nil
}

// Held returns the capabilities that this process may hand on.
func Held() (uint64, error) {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return 0, fmt.Errorf("cannot find out which capabilities the runtime has: %w", err)
	}
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32, nil
}

// All returns the mask of the capabilities up to the last.
func All(last int) uint64 { return 1<<(last+1) - 1 }

// Limit returns the masks without what is not available, and the names of what that has taken away.
func (m Masks) Limit(available uint64) (limited Masks, lost []string) {
	lost = NamesOf((m.Bounding | m.Effective | m.Inheritable | m.Permitted | m.Ambient) &^ available)
	m.Bounding &= available
	m.Effective &= available
	m.Inheritable &= available
	m.Permitted &= available
	m.Ambient &= available
	return m, lost
}

// NamesOf returns the names of the capabilities in a mask.
func NamesOf(mask uint64) []string {
	var list []string
	for number := range 64 {
		if mask&(1<<number) != 0 {
			list = append(list, name(number))
		}
	}
	return list
}

func name(number int) string {
	if number < len(names) {
		return names[number]
	}
	return strconv.Itoa(number)
}

func contains(list []string, wanted string) bool {
	for _, item := range list {
		if item == wanted {
			return true
		}
	}
	return false
}
