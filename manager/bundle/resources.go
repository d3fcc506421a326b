package bundle

import (
	"fmt"
	"math"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// minimumMemory is Docker's: with less not even the first process starts.
const minimumMemory = 6 << 20

func invalidResource(format string, args ...any) error {
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid resources: "+format, args...))
}

func addResources(request Request, spec *specs.Spec) error {
	resources, err := Resources(request.Spec.GetResources())
	if err != nil {
		return err
	}
	spec.Linux.Resources = resources
	score := int(request.Spec.GetResources().GetOomScoreAdj())
	spec.Process.OOMScoreAdj = &score
	return nil
}

// Resources makes the limits of the runtime specification.
func Resources(asked *berthv1.Resources) (*specs.LinuxResources, error) {
	if err := checkResources(asked); err != nil {
		return nil, err
	}
	if err := checkSets(asked); err != nil {
		return nil, err
	}
	block, err := blockIO(asked)
	if err != nil {
		return nil, err
	}
	resources := &specs.LinuxResources{Memory: memory(asked), CPU: cpu(asked), BlockIO: block, Unified: asked.GetUnified()}
	if asked != nil && asked.PidsLimit != nil && asked.GetPidsLimit() != 0 {
		limit := asked.GetPidsLimit()
		resources.Pids = &specs.LinuxPids{Limit: &limit}
	}
	return resources, nil
}

func checkResources(asked *berthv1.Resources) error {
	limit, both := asked.GetMemory(), asked.GetMemorySwap()
	period, quota := asked.GetCpuPeriod(), asked.GetCpuQuota()
	score := asked.GetOomScoreAdj()
	switch {
	case limit < 0, limit > 0 && limit < minimumMemory:
		return invalidResource("memory %d is less than the minimum of %d bytes", limit, minimumMemory)
	case both > 0 && limit == 0:
		return invalidResource("memory_swap %d needs memory to be set too", both)
	case both > 0 && both < limit:
		return invalidResource("memory_swap %d is less than memory %d; it counts both together", both, limit)
	case asked.GetMemoryReservation() < 0, limit > 0 && asked.GetMemoryReservation() > limit:
		return invalidResource("memory_reservation %d is not between 0 and memory %d", asked.GetMemoryReservation(), limit)
	case asked.GetMemorySwappiness() > 100:
		return invalidResource("memory_swappiness %d is not between 0 and 100", asked.GetMemorySwappiness())
	case asked.GetNanoCpus() < 0:
		return invalidResource("nano_cpus %d is negative", asked.GetNanoCpus())
	case asked.GetNanoCpus() > int64(runtime.NumCPU())*1e9:
		return invalidResource("%g CPUs are asked for, and the host has %d", float64(asked.GetNanoCpus())/1e9, runtime.NumCPU())
	case asked.GetNanoCpus() > 0 && (period > 0 || quota > 0):
		return invalidResource("nano_cpus together with cpu_period or cpu_quota")
	case period > 0 && (period < 1000 || period > 1000000):
		return invalidResource("cpu_period %d is not between 1000 and 1000000 microseconds", period)
	case quota > 0 && quota < 1000:
		return invalidResource("cpu_quota %d is less than 1000 microseconds", quota)
	case score < -1000 || score > 1000:
		return invalidResource("oom_score_adj %d is not between -1000 and 1000", score)
	case asked.GetBlkioWeight() != 0 && (asked.GetBlkioWeight() < 10 || asked.GetBlkioWeight() > 1000):
		return invalidResource("blkio_weight %d is not between 10 and 1000", asked.GetBlkioWeight())
	}
	return nil
}

func memory(asked *berthv1.Resources) *specs.LinuxMemory {
	result := &specs.LinuxMemory{}
	if limit := asked.GetMemory(); limit > 0 {
		result.Limit = &limit
		swap := 2 * limit // as docker: as much swap as memory
		if asked.GetMemorySwap() != 0 {
			swap = asked.GetMemorySwap()
		}
		result.Swap = &swap
	}
	if reservation := asked.GetMemoryReservation(); reservation > 0 {
		result.Reservation = &reservation
	}
	if asked != nil {
		result.Swappiness = asked.MemorySwappiness
		result.DisableOOMKiller = asked.OomKillDisable
	}
	if *result == (specs.LinuxMemory{}) {
		return nil
	}
	return result
}

func cpu(asked *berthv1.Resources) *specs.LinuxCPU {
	result := &specs.LinuxCPU{Cpus: asked.GetCpusetCpus(), Mems: asked.GetCpusetMems()}
	if shares := asked.GetCpuShares(); shares > 0 {
		result.Shares = &shares
	}
	if period := asked.GetCpuPeriod(); period > 0 {
		result.Period = &period
	}
	if quota := asked.GetCpuQuota(); quota != 0 {
		result.Quota = &quota
	}
	if nano := asked.GetNanoCpus(); nano > 0 {
		const defaultPeriod = 100000
		period, quota := uint64(defaultPeriod), nano*defaultPeriod/1e9
		result.Period, result.Quota = &period, &quota
	}
	if runtime := asked.GetCpuRealtimeRuntime(); runtime > 0 {
		result.RealtimeRuntime = &runtime
	}
	if period := asked.GetCpuRealtimePeriod(); period > 0 {
		unsigned := uint64(period)
		result.RealtimePeriod = &unsigned
	}
	if *result == (specs.LinuxCPU{}) {
		return nil
	}
	return result
}

func blockIO(asked *berthv1.Resources) (*specs.LinuxBlockIO, error) {
	if asked.GetBlkioWeight() == 0 && len(asked.GetBlkioThrottles()) == 0 {
		return nil, nil
	}
	result := &specs.LinuxBlockIO{}
	if weight := uint16(asked.GetBlkioWeight()); weight > 0 {
		result.Weight = &weight
	}
	for _, throttle := range asked.GetBlkioThrottles() {
		major, minor, kind, err := deviceNumbers(throttle.GetPath())
		if err != nil {
			return nil, invalidResource("blkio_throttles: %w", err)
		}
		if kind != "b" {
			return nil, invalidResource("blkio_throttles: %q is not a block device", throttle.GetPath())
		}
		device := specs.LinuxBlockIODevice{Major: major, Minor: minor}
		limit := specs.LinuxThrottleDevice{LinuxBlockIODevice: device, Rate: throttle.GetRate()}
		switch throttle.GetKind() {
		case berthv1.ThrottleKind_THROTTLE_KIND_READ_BPS:
			result.ThrottleReadBpsDevice = append(result.ThrottleReadBpsDevice, limit)
		case berthv1.ThrottleKind_THROTTLE_KIND_WRITE_BPS:
			result.ThrottleWriteBpsDevice = append(result.ThrottleWriteBpsDevice, limit)
		case berthv1.ThrottleKind_THROTTLE_KIND_READ_IOPS:
			result.ThrottleReadIOPSDevice = append(result.ThrottleReadIOPSDevice, limit)
		case berthv1.ThrottleKind_THROTTLE_KIND_WRITE_IOPS:
			result.ThrottleWriteIOPSDevice = append(result.ThrottleWriteIOPSDevice, limit)
		case berthv1.ThrottleKind_THROTTLE_KIND_WEIGHT:
			weight := uint16(min(throttle.GetRate(), math.MaxUint16))
			result.WeightDevice = append(result.WeightDevice, specs.LinuxWeightDevice{LinuxBlockIODevice: device, Weight: &weight})
		default:
			return nil, invalidResource("blkio_throttles: %q has no kind", throttle.GetPath())
		}
	}
	return result, nil
}

func addRlimits(request Request, spec *specs.Spec) (err error) {
	spec.Process.Rlimits, err = Rlimits(request.Spec.GetResources())
	return err
}

// Rlimits are the limits of setrlimit(2) for a process of a container with these resources.
func Rlimits(resources *berthv1.Resources) ([]specs.POSIXRlimit, error) {
	var limits []specs.POSIXRlimit
	for _, ulimit := range resources.GetUlimits() {
		name := strings.ToLower(ulimit.GetName())
		if !knownUlimit(name) {
			return nil, invalidResource("unknown ulimit %q", ulimit.GetName())
		}
		soft, hard := ulimitValue(ulimit.GetSoft()), ulimitValue(ulimit.GetHard())
		if soft > hard {
			return nil, invalidResource("ulimit %q: the soft limit %d is more than the hard limit %d", name, ulimit.GetSoft(), ulimit.GetHard())
		}
		limits = append(limits, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: soft, Hard: hard})
	}
	return limits, nil
}

func ulimitValue(value int64) uint64 {
	if value < 0 {
		return unix.RLIM_INFINITY
	}
	return uint64(value)
}

func knownUlimit(name string) bool {
	switch name {
	case "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack":
		return true
	}
	return false
}
