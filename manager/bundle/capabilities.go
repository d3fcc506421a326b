package bundle

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// defaultCapabilities are Docker's.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// capabilityNames in the order of their numbers.
func capabilityNames() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
		"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
		"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
		"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
		"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// availableCapabilities are those that this process could pass on: its bounding set.
func availableCapabilities() ([]string, error) {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(status) {
		value, found := strings.CutPrefix(string(line), "CapBnd:")
		if !found {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return nil, err
		}
		var available []string
		for number, name := range capabilityNames() {
			if mask&(1<<number) != 0 {
				available = append(available, name)
			}
		}
		return available, nil
	}
	return nil, fmt.Errorf("no CapBnd in /proc/thread-self/status")
}

// capabilitySets applies add and drop to Docker's default. Who is not root gets them only in the bounding set.
func capabilitySets(security *berthv1.Security, privileged, root bool) (*specs.LinuxCapabilities, error) {
	list, err := capabilityList(security, privileged)
	if err != nil {
		return nil, err
	}
	sets := &specs.LinuxCapabilities{Bounding: list}
	if root || privileged {
		sets.Effective, sets.Permitted = list, list
	}
	return sets, nil
}

// CheckCapabilities refuses names that no kernel knows, and what berthd can't give.
func CheckCapabilities(security *berthv1.Security) error {
	_, err := capabilityList(security, security.GetPrivileged())
	return err
}

func capabilityList(security *berthv1.Security, privileged bool) ([]string, error) {
	all, err := availableCapabilities()
	if err != nil {
		return nil, fmt.Errorf("cannot read the capabilities of berthd: %w", err)
	}
	if privileged {
		return all, nil
	}
	add, err := normalise("cap_add", security.GetCapAdd())
	if err != nil {
		return nil, err
	}
	drop, err := normalise("cap_drop", security.GetCapDrop())
	if err != nil {
		return nil, err
	}
	list := defaultCapabilities()
	switch {
	case slices.Contains(add, "ALL"):
		list = all
	case slices.Contains(drop, "ALL"):
		list = nil
	}
	if slices.Contains(add, "ALL") || !slices.Contains(drop, "ALL") {
		list = slices.DeleteFunc(slices.Clone(list), func(name string) bool { return slices.Contains(drop, name) })
	}
	for _, name := range add {
		if name != "ALL" && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	// What the daemon lacks it can't give; docker leaves it out of its defaults as well.
	for _, name := range add {
		if name != "ALL" && !slices.Contains(all, name) {
			return nil, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot add capability %s: berthd does not have it itself", name))
		}
	}
	return slices.DeleteFunc(list, func(name string) bool { return !slices.Contains(all, name) }), nil
}

func normalise(field string, names []string) ([]string, error) {
	var list []string
	for _, name := range names {
		upper := strings.ToUpper(name)
		if upper != "ALL" && !strings.HasPrefix(upper, "CAP_") {
			upper = "CAP_" + upper
		}
		if upper != "ALL" && !slices.Contains(capabilityNames(), upper) {
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid %s: unknown capability %q", field, name))
		}
		list = append(list, upper)
	}
	return list, nil
}
