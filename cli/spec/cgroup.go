package spec

import (
	"errors"
	"math"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// cgroupFlags are the limits that cgroups keep.
type cgroupFlags struct {
	memory      memoryFlags
	cpu         cpuFlags
	pidsLimit   int64
	blkioWeight uint16
	parent      string
	oomScoreAdj int32
	shmSize     string
}

type memoryFlags struct {
	limit          string
	reservation    string
	swap           string
	swappiness     int64
	oomKillDisable bool
}

type cpuFlags struct {
	cpus                 string
	shares               uint64
	period               uint64
	quota                int64
	rtPeriod, rtRuntime  int64
	cpusetCPUs, cpusetMs string
}

func (f *cgroupFlags) register(set *pflag.FlagSet) {
	set.StringVarP(&f.memory.limit, "memory", "m", "", "Memory limit, as 512m")
	set.StringVar(&f.memory.reservation, "memory-reservation", "", "Soft memory limit")
	set.StringVar(&f.memory.swap, "memory-swap", "", "Limit of memory and swap together; -1: no limit")
	set.Int64Var(&f.memory.swappiness, "memory-swappiness", -1, "How readily to swap, 0 to 100")
	set.BoolVar(&f.memory.oomKillDisable, "oom-kill-disable", false, "Stop processes at the memory limit instead of killing one")
	set.StringVar(&f.cpu.cpus, "cpus", "", "Number of CPUs, as 1.5")
	set.Uint64VarP(&f.cpu.shares, "cpu-shares", "c", 0, "CPU shares (relative weight, usual 1024)")
	set.Uint64Var(&f.cpu.period, "cpu-period", 0, "Period of the CPU limit, in microseconds")
	set.Int64Var(&f.cpu.quota, "cpu-quota", 0, "CPU time in each period, in microseconds")
	set.Int64Var(&f.cpu.rtPeriod, "cpu-rt-period", 0, "Period of the real-time CPU limit, in microseconds")
	set.Int64Var(&f.cpu.rtRuntime, "cpu-rt-runtime", 0, "Real-time CPU time in each period, in microseconds")
	set.StringVar(&f.cpu.cpusetCPUs, "cpuset-cpus", "", "CPUs to run on, as 0-2,4")
	set.StringVar(&f.cpu.cpusetMs, "cpuset-mems", "", "Memory nodes to use, as 0,1")
	set.Int64Var(&f.pidsLimit, "pids-limit", 0, "Number of processes and threads; -1: no limit")
	set.Uint16Var(&f.blkioWeight, "blkio-weight", 0, "Weight of block device access, 10 to 1000")
	set.StringVar(&f.parent, "cgroup-parent", "", "Parent of the container's cgroup")
	set.Int32Var(&f.oomScoreAdj, "oom-score-adj", 0, "How readily the kernel kills when memory runs out, -1000 to 1000")
	set.StringVar(&f.shmSize, "shm-size", "", "Size of /dev/shm, as 64m")
}

func (f *cgroupFlags) apply(spec *berthv1.ContainerSpec, set *pflag.FlagSet) (err error) {
	resources := spec.Resources
	if err := f.memory.apply(resources, set); err != nil {
		return err
	}
	if err := f.cpu.apply(resources, set); err != nil {
		return err
	}
	if set.Changed("pids-limit") {
		resources.PidsLimit = &f.pidsLimit
	}
	if set.Changed("blkio-weight") {
		weight := uint32(f.blkioWeight)
		if weight != 0 && (weight < 10 || weight > 1000) {
			return invalid("blkio-weight", strconv.Itoa(int(weight)), "want 10 to 1000")
		}
		resources.BlkioWeight = &weight
	}
	if set.Changed("oom-score-adj") {
		if f.oomScoreAdj < -1000 || f.oomScoreAdj > 1000 {
			return invalid("oom-score-adj", strconv.Itoa(int(f.oomScoreAdj)), "want -1000 to 1000")
		}
		resources.OomScoreAdj = &f.oomScoreAdj
	}
	if f.shmSize != "" {
		if spec.ShmSize, err = bytes("shm-size", f.shmSize); err != nil {
			return err
		}
	}
	resources.CgroupParent = f.parent
	return nil
}

func (f *memoryFlags) apply(resources *berthv1.Resources, set *pflag.FlagSet) error {
	for _, field := range []struct {
		flag, value string
		to          **int64
	}{
		{"memory", f.limit, &resources.Memory},
		{"memory-reservation", f.reservation, &resources.MemoryReservation},
		{"memory-swap", f.swap, &resources.MemorySwap},
	} {
		if field.value == "" {
			continue
		}
		size := int64(-1)
		if field.flag != "memory-swap" || field.value != "-1" {
			var err error
			if size, err = bytes(field.flag, field.value); err != nil {
				return err
			}
		}
		*field.to = &size
	}
	if f.swappiness < -1 || f.swappiness > 100 {
		return invalid("memory-swappiness", strconv.FormatInt(f.swappiness, 10), "want 0 to 100")
	}
	if f.swappiness >= 0 {
		swappiness := uint64(f.swappiness)
		resources.MemorySwappiness = &swappiness
	}
	if set.Changed("oom-kill-disable") {
		resources.OomKillDisable = &f.oomKillDisable
	}
	return nil
}

func (f *cpuFlags) apply(resources *berthv1.Resources, set *pflag.FlagSet) error {
	if f.cpus != "" {
		if set.Changed("cpu-period") || set.Changed("cpu-quota") {
			return errors.New("conflicting options: --cpus sets the period and the quota, give it or --cpu-period and --cpu-quota")
		}
		cpus, err := strconv.ParseFloat(f.cpus, 64)
		if err != nil || !(cpus >= 0 && cpus < 1e6) {
			return invalid("cpus", f.cpus, "want a number of processors, as 1.5")
		}
		nano := int64(math.Round(cpus * 1e9)) // 0: no limit
		resources.NanoCpus = &nano
	}
	if set.Changed("cpu-shares") {
		resources.CpuShares = &f.shares
	}
	if set.Changed("cpu-period") {
		resources.CpuPeriod = &f.period
	}
	if set.Changed("cpu-quota") {
		resources.CpuQuota = &f.quota
	}
	if set.Changed("cpu-rt-period") {
		resources.CpuRealtimePeriod = &f.rtPeriod
	}
	if set.Changed("cpu-rt-runtime") {
		resources.CpuRealtimeRuntime = &f.rtRuntime
	}
	resources.CpusetCpus, resources.CpusetMems = f.cpusetCPUs, f.cpusetMs
	return nil
}

// bytes reads a size as 512m; a bare number is in bytes.
func bytes(flag, text string) (int64, error) {
	size, err := units.RAMInBytes(text)
	if err != nil || size < 0 {
		return 0, invalid(flag, text, "want a size, as 512m or 2g")
	}
	return size, nil
}
