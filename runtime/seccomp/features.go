package seccomp

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
)

// Features tells what profiles may ask for, sorted by name.
func Features() *features.Seccomp {
	architectures := strings.Fields(known)
	slices.Sort(architectures)
	enabled := true
	flags := []string{
		string(specs.LinuxSeccompFlagLog), string(specs.LinuxSeccompFlagSpecAllow), tsync, string(specs.LinuxSeccompFlagWaitKillableRecv),
	}
	return &features.Seccomp{
		Enabled: &enabled,
		Actions: []string{
			string(specs.ActAllow), string(specs.ActErrno), string(specs.ActKill), string(specs.ActKillProcess),
			string(specs.ActKillThread), string(specs.ActLog), string(specs.ActNotify), string(specs.ActTrace), string(specs.ActTrap),
		},
		Operators: []string{
			string(specs.OpEqualTo), string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpLessEqual),
			string(specs.OpLessThan), string(specs.OpMaskedEqual), string(specs.OpNotEqual),
		},
		Archs:          architectures,
		KnownFlags:     flags,
		SupportedFlags: slices.DeleteFunc(slices.Clone(flags), func(flag string) bool { return !kernelHas(flagBits(flag)) }),
	}
}

// flagBits is what the kernel needs to be asked about a flag: some are refused alone.
func flagBits(flag string) uint {
	switch specs.LinuxSeccompFlag(flag) {
	case specs.LinuxSeccompFlagLog:
		return unix.SECCOMP_FILTER_FLAG_LOG
	case specs.LinuxSeccompFlagSpecAllow:
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	case specs.LinuxSeccompFlagWaitKillableRecv:
		return unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	return unix.SECCOMP_FILTER_FLAG_TSYNC
}

// kernelHas tells whether the kernel knows flags. If it does it goes on to read the filter, of which there is none.
func kernelHas(flags uint) bool {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), 0)
	return errno == unix.EFAULT
}
