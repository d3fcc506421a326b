package bundle

import (
	"github.com/containerd/cgroups/v3"
	"github.com/opencontainers/runtime-spec/specs-go"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Defaults of the kernel, for limits that are lifted.
const (
	defaultShares   = 1024
	defaultPeriod   = 100000 // microseconds
	defaultWeightV1 = 500
	defaultWeightV2 = 20 // becomes 102 of io.weight, whose default is 100
)

// UpdatedResources makes the limits that a running container with the limits before gets to have those of after. A
// configuration leaves out what is not limited; a cgroup would keep the old limit then, so what before limits and after
// does not is set to the kernel's default.
func UpdatedResources(before, after *berthv1.Resources) (*specs.LinuxResources, error) {
	was, err := Resources(before)
	if err != nil {
		return nil, err
	}
	is, err := Resources(after)
	if err != nil {
		return nil, err
	}
	unified := cgroups.Mode() == cgroups.Unified
	liftMemory(was, is, unified)
	liftCPU(was, is, unified)
	if was.Pids != nil && is.Pids == nil {
		is.Pids = &specs.LinuxPids{Limit: new(int64(-1))}
	}
	if was.BlockIO != nil && was.BlockIO.Weight != nil && (is.BlockIO == nil || is.BlockIO.Weight == nil) {
		if is.BlockIO == nil {
			is.BlockIO = &specs.LinuxBlockIO{}
		}
		is.BlockIO.Weight = new(uint16(defaultWeightV1))
		if unified {
			is.BlockIO.Weight = new(uint16(defaultWeightV2))
		}
	}
	return is, nil
}

func liftMemory(was, is *specs.LinuxResources, unified bool) {
	if was.Memory == nil {
		return
	}
	if is.Memory == nil {
		is.Memory = &specs.LinuxMemory{}
	}
	lift := func(was *int64, is **int64) {
		if was != nil && *is == nil {
			*is = new(int64(-1))
		}
	}
	lift(was.Memory.Limit, &is.Memory.Limit)
	lift(was.Memory.Swap, &is.Memory.Swap)
	if !unified {
		lift(was.Memory.Reservation, &is.Memory.Reservation)
		return
	}
	// On v2 the reservation is memory.low, whose default is none at all.
	if was.Memory.Reservation != nil && is.Memory.Reservation == nil {
		if is.Unified == nil {
			is.Unified = map[string]string{}
		}
		is.Unified["memory.low"] = "0"
	}
}

func liftCPU(was, is *specs.LinuxResources, unified bool) {
	if was.CPU == nil {
		return
	}
	if is.CPU == nil {
		is.CPU = &specs.LinuxCPU{}
	}
	if was.CPU.Quota != nil && is.CPU.Quota == nil {
		is.CPU.Quota = new(int64(-1))
	}
	if was.CPU.Period != nil && is.CPU.Period == nil {
		is.CPU.Period = new(uint64(defaultPeriod))
	}
	if was.CPU.Shares != nil && is.CPU.Shares == nil {
		is.CPU.Shares = new(uint64(defaultShares))
	}
	if was.CPU.RealtimeRuntime != nil && is.CPU.RealtimeRuntime == nil && !unified {
		is.CPU.RealtimeRuntime = new(int64(0))
	}
}
