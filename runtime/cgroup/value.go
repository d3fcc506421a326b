package cgroup

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/kernelfile"
)

// unlimited is how the spec says no limit.
const unlimited = -1

// Limits tells whether resources ask for more than rules for devices.
func Limits(r *specs.LinuxResources) bool {
	return r != nil && (r.Memory != nil || r.CPU != nil || r.Pids != nil || r.BlockIO != nil || r.Network != nil ||
		len(r.HugepageLimits)+len(r.Rdma)+len(r.Unified) > 0)
}

func unsupported(field, why string) error {
	return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("%s can't be honoured: %s", field, why))
}

func format[N int64 | uint64](value *N) string {
	if value == nil {
		return ""
	}
	return fmt.Sprint(*value)
}

func readNumber(file string) (int64, error) {
	content, err := kernelfile.ReadOnce(file)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(content))
	if text == "max" {
		return unlimited, nil
	}
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("cannot understand %s: %w", file, err)
	}
	return number, nil
}

// limitText is a limit as cgroup v2 files want it.
func limitText(limit int64) string {
	if limit == unlimited {
		return "max"
	}
	return strconv.FormatInt(limit, 10)
}

// pidsMax is a limit of tasks as the kernel wants it. With 0 not even the container's first process could be born, so
// that it stands for the least that can be.
func pidsMax(limit int64) string {
	if limit < 0 {
		return "max"
	}
	return strconv.FormatInt(max(limit, 1), 10)
}
