package cgroup

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/runtime/numbers"
	"github.com/berthd/berth/runtime/systemd"
)

// scopeProperties are those of every scope.
func scopeProperties(config Config, name unitName, pid int, unified bool) []systemd.Property {
	io := "IOAccounting"
	if !unified {
		io = "BlockIOAccounting"
	}
	return []systemd.Property{
		{Name: "Description", Value: "container " + config.ID},
		{Name: "Slice", Value: name.slice},
		{Name: "PIDs", Value: []uint32{uint32(pid)}},
		{Name: "Delegate", Value: true}, // what is below is ours
		{Name: "DefaultDependencies", Value: false},
		{Name: "CollectMode", Value: "inactive-or-failed"},
		{Name: "MemoryAccounting", Value: true},
		{Name: "CPUAccounting", Value: true},
		{Name: "TasksAccounting", Value: true},
		{Name: io, Value: true},
	}
}

// limitProperties are the limits that systemd knows. It has no word for the others.
func limitProperties(resources *specs.LinuxResources, unified bool) []systemd.Property {
	if resources == nil {
		return nil
	}
	var list []systemd.Property
	add := func(name string, value any) { list = append(list, systemd.Property{Name: name, Value: value}) }
	limit := func(name string, value *int64) {
		if value != nil && *value != 0 {
			add(name, limitNumber(*value))
		}
	}
	if memory := resources.Memory; memory != nil {
		if unified {
			limit("MemoryMax", memory.Limit)
			limit("MemoryLow", memory.Reservation)
			if swap := memory.Swap; swap != nil && (*swap == unlimited || memory.Limit != nil && *swap > 0 && *swap >= *memory.Limit) {
				most := *swap
				if most != unlimited {
					most -= *memory.Limit
				}
				add("MemorySwapMax", limitNumber(most))
			}
		} else {
			limit("MemoryLimit", memory.Limit)
		}
	}
	if cpu := resources.CPU; cpu != nil {
		list = append(list, cpuProperties(cpu, unified)...)
	}
	if pids := resources.Pids; pids != nil && pids.Limit != nil {
		most := *pids.Limit
		if most >= 0 {
			most = max(most, 1)
		}
		add("TasksMax", limitNumber(most))
	}
	return list
}

func cpuProperties(cpu *specs.LinuxCPU, unified bool) []systemd.Property {
	var list []systemd.Property
	add := func(name string, value any) { list = append(list, systemd.Property{Name: name, Value: value}) }
	if cpu.Shares != nil && *cpu.Shares != 0 {
		if unified {
			add("CPUWeight", uint64(cpuWeight(*cpu.Shares)))
		} else {
			add("CPUShares", *cpu.Shares)
		}
	}
	if cpu.Quota != nil && *cpu.Quota != 0 {
		period := uint64(100000)
		if cpu.Period != nil && *cpu.Period != 0 {
			period = *cpu.Period
			add("CPUQuotaPeriodUSec", period)
		}
		perSecond := uint64(math.MaxUint64)
		if *cpu.Quota > 0 {
			const step = 10000 // systemd counts in hundredths of a processor
			perSecond = (uint64(*cpu.Quota)*1000000/period + step - 1) / step * step
		}
		add("CPUQuotaPerSecUSec", perSecond)
	}
	if unified && cpu.Cpus != "" {
		add("AllowedCPUs", bitmap(cpu.Cpus))
	}
	if unified && cpu.Mems != "" {
		add("AllowedMemoryNodes", bitmap(cpu.Mems))
	}
	return list
}

func limitNumber(limit int64) uint64 {
	if limit < 0 {
		return math.MaxUint64
	}
	return uint64(limit)
}

// bitmap is the mask of a list as systemd takes it: bytes, the lowest bits first, and none that are zero at the end.
func bitmap(list string) []byte {
	var bits []byte
	for _, word := range numbers.Mask(list) {
		bits = binary.LittleEndian.AppendUint64(bits, word)
	}
	return bytes.TrimRight(bits, "\x00")
}
