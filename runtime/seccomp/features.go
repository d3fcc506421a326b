package seccomp

import (
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features tells what profiles may ask for, sorted by name.
func Features() *features.Seccomp {
	enabled := true
	architectures := []string{string(specs.ArchX32), string(specs.ArchX86), string(specs.ArchX86_64)}
	if runtime.GOARCH == "arm64" {
		architectures = []string{string(specs.ArchAARCH64), string(specs.ArchARM)}
	}
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
		SupportedFlags: flags,
	}
}
