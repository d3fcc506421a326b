package cgroup

import (
	"bytes"
	"encoding/binary"
	"math"
	"path/filepath"
	"strconv"
	"strings"

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

// limitProperties are those limits of a cgroup, which may be still to be made, that systemd knows.
func limitProperties(group Cgroup, resources *specs.LinuxResources, create bool) ([]systemd.Property, error) {
	if resources == nil {
		resources = &specs.LinuxResources{}
	}
	if memory := resources.Memory; memory != nil && memory.CheckBeforeUpdate != nil {
		unchecked, all := *memory, *resources
		unchecked.CheckBeforeUpdate, all.Memory = nil, &unchecked
		resources = &all
	}
	var settings []setting
	switch c := group.(type) {
	case *v1:
		limits, err := c.limits(resources)
		if err != nil {
			return nil, err
		}
		for _, limit := range limits {
			if limit.controller == "cpuset" { // which systemd has for cgroup v2 alone
				continue
			}
			for _, s := range limit.files {
				if s.file != "cpu.idle" { // the same
					settings = append(settings, s)
				}
			}
		}
		list := settingProperties(append(c.quota(resources.CPU), settings...))
		if !create && len(resources.Devices) == 0 {
			return list, nil
		}
		// On v2 the rules are a program of ours that systemd never touches.
		devices, err := deviceProperties(resources.Devices)
		return append(list, devices...), err
	case *v2:
		limits, err := c.limits(resources)
		if err != nil {
			return nil, err
		}
		for _, limit := range limits {
			settings = append(settings, limit.files...)
		}
	}
	return settingProperties(settings), nil
}

// quota is the quota and the period that have been in effect, if either is to change: to systemd they are one limit.
func (c *v1) quota(cpu *specs.LinuxCPU) []setting {
	dir, ok := c.paths["cpu"]
	if !ok || cpu == nil || cpu.Quota == nil && cpu.Period == nil {
		return nil
	}
	var settings []setting
	for _, file := range []string{"cpu.cfs_quota_us", "cpu.cfs_period_us"} {
		if number, err := readNumber(filepath.Join(dir, file)); err == nil {
			settings = append(settings, setting{file: file, value: strconv.FormatInt(number, 10)})
		}
	}
	return settings
}

// settingProperties translates what is written to files. systemd has no word for most of them.
func settingProperties(settings []setting) []systemd.Property {
	var list []systemd.Property
	add := func(name string, value any) { list = append(list, systemd.Property{Name: name, Value: value}) }
	quota, period := "", ""
	for _, s := range settings {
		switch s.file {
		case "cpu.max":
			quota, period, _ = strings.Cut(strings.TrimSpace(s.value), " ")
		case "cpu.cfs_quota_us":
			quota = s.value
		case "cpu.cfs_period_us":
			period = s.value
		case "cpuset.cpus":
			add("AllowedCPUs", bitmap(s.value))
		case "cpuset.mems":
			add("AllowedMemoryNodes", bitmap(s.value))
		case "cpu.idle": // with whose end the kernel gives back the default weight
			weight := uint64(defaultWeight)
			if s.value == "1" {
				weight = systemd.Idle
			}
			add("CPUWeight", weight)
		case "io.weight", "io.bfq.weight":
			if weight, err := strconv.ParseUint(strings.TrimPrefix(s.value, "default "), 10, 64); err == nil { // else of one disk
				add("IOWeight", systemdWeight(s.file, weight))
			}
		default:
			name := propertyName(s.file)
			if limit, ok := limitNumber(s.value); ok && name != "" {
				add(name, limit)
			}
		}
	}
	return append(list, quotaProperties(quota, period)...)
}

const defaultWeight = 100 // of a cgroup on v2

// systemdWeight is the weight of which systemd makes the given one. BFQ has less room above the default.
func systemdWeight(file string, weight uint64) uint64 {
	if file == "io.weight" || weight <= defaultWeight {
		return weight
	}
	return defaultWeight + (weight-defaultWeight)*(10000-defaultWeight)/(1000-defaultWeight)
}

// propertyName is the property of a file with one number, or "".
func propertyName(file string) string {
	switch file {
	case "memory.max":
		return "MemoryMax"
	case "memory.high":
		return "MemoryHigh"
	case "memory.low":
		return "MemoryLow"
	case "memory.min":
		return "MemoryMin"
	case "memory.swap.max":
		return "MemorySwapMax"
	case memoryLimitFile:
		return "MemoryLimit"
	case "cpu.weight":
		return "CPUWeight"
	case "cpu.shares":
		return "CPUShares"
	case "pids.max":
		return "TasksMax"
	}
	return ""
}

// quotaProperties are those of microseconds of processor time in each period of microseconds.
func quotaProperties(quota, period string) []systemd.Property {
	var list []systemd.Property
	length, err := strconv.ParseUint(period, 10, 64)
	if err == nil && length > 0 {
		list = append(list, systemd.Property{Name: "CPUQuotaPeriodUSec", Value: length})
	} else {
		length = 100000
	}
	if time, ok := limitNumber(quota); ok {
		if time != math.MaxUint64 {
			const step = 10000 // systemd counts in hundredths of a processor
			time = (time*1000000/length + step - 1) / step * step
		}
		list = append(list, systemd.Property{Name: "CPUQuotaPerSecUSec", Value: time})
	}
	return list
}

// limitNumber is a limit as systemd has it. None is the greatest number.
func limitNumber(text string) (uint64, bool) {
	text = strings.TrimSpace(text)
	if text == "max" || text == "-1" {
		return math.MaxUint64, true
	}
	number, err := strconv.ParseUint(text, 10, 64)
	return number, err == nil
}

// bitmap is the mask of a list as systemd takes it: bytes, the lowest bits first, and none that are zero at the end.
func bitmap(list string) []byte {
	var bits []byte
	for _, word := range numbers.Mask(list) {
		bits = binary.LittleEndian.AppendUint64(bits, word)
	}
	return bytes.TrimRight(bits, "\x00")
}
