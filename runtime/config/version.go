package config

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// parseVersion returns the parts of a semantic version that tell whether a configuration can be understood.
func parseVersion(version string) (major, minor int, ok bool) {
	core, _, _ := strings.Cut(version, "+")
	core, _, _ = strings.Cut(core, "-")
	parts := strings.Split(core, ".")
	if len(parts) != 3 {
		return 0, 0, false
	}
	var numbers [3]int
	for i, part := range parts {
		number, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return 0, 0, false
		}
		numbers[i] = int(number)
	}
	return numbers[0], numbers[1], true
}

func checkVersion(version string) error {
	if version == "" {
		return invalid("ociVersion", "%w", errRequired)
	}
	major, _, ok := parseVersion(version)
	if !ok {
		return invalid("ociVersion", "%q is not a version such as %q", version, specs.Version)
	}
	if major != specs.VersionMajor {
		return invalid("ociVersion", "%q is not supported: versions %d.x are", version, specs.VersionMajor)
	}
	return nil
}

// translate gives what an older version means by a value the name that it has in ours. Until 1.3 there was no limit of 0
// tasks: podman writes it for none.
func translate(spec *specs.Spec) {
	if spec.Linux.Resources == nil || spec.Linux.Resources.Pids == nil {
		return
	}
	const changed = 3
	limit := spec.Linux.Resources.Pids.Limit
	if _, minor, _ := parseVersion(spec.Version); minor < changed && limit != nil && *limit == 0 {
		*limit = -1
	}
}
