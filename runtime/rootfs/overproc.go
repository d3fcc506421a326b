package rootfs

import (
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// shown are the files of /proc that may be replaced, as lxcfs does: they tell of the machine, and nobody trusts them.
var shown = [...]string{
	"cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "slabinfo", "stat", "swaps", "uptime", "sys/crypto/fips_enabled", "sys/kernel/ns_last_pid",
}

// refuseOverProc refuses what would pass for the kernel's own files: programs in the container trust /proc, be it for what
// they may do themselves.
func (b *Builder) refuseOverProc(m specs.Mount) error {
	if !strings.Contains(m.Destination, "proc") {
		return nil
	}
	rel := relative(m.Destination)
	inside, isInside := strings.CutPrefix(rel, "proc/")
	switch {
	case isInside && !slices.Contains(shown[:], inside):
		return errors.New("it is inside of /proc")
	case rel != "proc" || m.Type == "proc":
		return nil
	}
	switch o := parseOptions(m.Options); {
	case o.remount:
		return nil
	case isBound(m, o):
		var stat unix.Statfs_t
		if err := unix.Statfs(b.source(m), &stat); err != nil || stat.Type == unix.PROC_SUPER_MAGIC {
			return nil // the child says what is wrong with it
		}
	}
	return errors.New("it is not of type \"proc\"")
}
