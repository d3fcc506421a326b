package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/runtime/config"
	"github.com/berthd/berth/runtime/container"
)

func (g *globals) update(args []string) (int, error) {
	flags := newFlags("update", "[options] ID")
	var file string
	both(flags.StringVar, &file, "resources,r", "`file` with linux.resources as JSON, - for stdin; the other flags are without effect then")
	set := defineLimits(flags)
	l3Cache := flags.String("l3-cache-schema", "", "`line` of schemata for the L3 cache, such as L3:0=7f0;1=1f")
	bandwidth := flags.String("mem-bw-schema", "", "`line` of schemata for the memory's bandwidth, such as MB:0=20;1=70")
	id, err := parseID(flags, args)
	if err != nil {
		return 1, err
	}
	c, err := container.Lock(g.root, id)
	if err != nil {
		return 1, err
	}
	defer c.Close()
	if file != "" {
		resources, err := g.readResources(file)
		if err != nil {
			return 1, err
		}
		return 0, c.Update(resources)
	}
	resources := &specs.LinuxResources{}
	if flags.NFlag() == 0 {
		return 1, errors.New("update needs a limit to change, or --resources")
	}
	set(resources)
	if *l3Cache != "" || *bandwidth != "" {
		if err := c.UpdateClass(*l3Cache, *bandwidth); err != nil {
			return 1, err
		}
	}
	return 0, c.Update(resources)
}

func (g *globals) readResources(file string) (*specs.LinuxResources, error) {
	var content []byte
	var err error
	if file == "-" {
		content, err = io.ReadAll(os.Stdin)
	} else {
		content, err = os.ReadFile(file)
	}
	resources := &specs.LinuxResources{}
	if err == nil {
		var ignored []string
		ignored, err = config.Decode(content, resources)
		for _, field := range ignored {
			g.warn(fmt.Sprintf("resources %q: field %s: there is no such field, it is ignored", file, field))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read resources %q: %w", file, err)
	}
	return resources, nil
}

// size is a flag for a number of bytes, with a unit of 1024 or its powers behind it or not.
type size int64

// String returns the number.
func (s *size) String() string { return strconv.FormatInt(int64(*s), 10) }

// Set understands a number and unit.
func (s *size) Set(text string) error {
	digits := strings.TrimRight(strings.ToLower(text), "kmgtpib")
	number, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return errors.New("it is not a number of bytes such as 1048576 or 1m")
	}
	unit := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(text[len(digits):]), "b"), "i")
	power := strings.Index("kmgtp", unit)
	if len(unit) > 1 || power < 0 {
		return fmt.Errorf("%q is not a unit such as k, m or g", text[len(digits):])
	}
	shift := 10 * (power + len(unit))
	if len(unit) == 0 {
		shift = 0
	}
	if number > math.MaxInt64>>shift || number < 0 && shift > 0 {
		return errors.New("it is out of range")
	}
	*s = size(number << shift)
	return nil
}

// limit is a flag for one number of the resources.
type limit struct {
	name, usage string
	apply       func(r *specs.LinuxResources, n int64)
}

func limits() []limit {
	cpu := func(r *specs.LinuxResources) *specs.LinuxCPU {
		if r.CPU == nil {
			r.CPU = &specs.LinuxCPU{}
		}
		return r.CPU
	}
	memory := func(r *specs.LinuxResources) *specs.LinuxMemory {
		if r.Memory == nil {
			r.Memory = &specs.LinuxMemory{}
		}
		return r.Memory
	}
	unsigned := func(n int64) *uint64 { u := uint64(n); return &u }
	return []limit{
		{"blkio-weight", "weight of block I/O", func(r *specs.LinuxResources, n int64) {
			weight := uint16(n)
			r.BlockIO = &specs.LinuxBlockIO{Weight: &weight}
		}},
		{"cpu-period", "CFS period in microseconds", func(r *specs.LinuxResources, n int64) { cpu(r).Period = unsigned(n) }},
		{"cpu-quota", "CFS quota in microseconds", func(r *specs.LinuxResources, n int64) { cpu(r).Quota = &n }},
		{"cpu-burst", "CFS burst in microseconds", func(r *specs.LinuxResources, n int64) { cpu(r).Burst = unsigned(n) }},
		{"cpu-rt-period", "real-time period in microseconds", func(r *specs.LinuxResources, n int64) { cpu(r).RealtimePeriod = unsigned(n) }},
		{"cpu-rt-runtime", "real-time runtime in microseconds", func(r *specs.LinuxResources, n int64) { cpu(r).RealtimeRuntime = &n }},
		{"cpu-share", "relative share of the processors", func(r *specs.LinuxResources, n int64) { cpu(r).Shares = unsigned(n) }},
		{"cpu-idle", "1 for SCHED_IDLE, 0 for the default", func(r *specs.LinuxResources, n int64) { cpu(r).Idle = &n }},
		{"memory", "limit of memory in bytes", func(r *specs.LinuxResources, n int64) { memory(r).Limit = &n }},
		{"memory-reservation", "soft limit of memory in bytes", func(r *specs.LinuxResources, n int64) { memory(r).Reservation = &n }},
		{"memory-swap", "limit of memory and swap in bytes", func(r *specs.LinuxResources, n int64) { memory(r).Swap = &n }},
		{"pids-limit", "limit of processes", func(r *specs.LinuxResources, n int64) { r.Pids = &specs.LinuxPids{Limit: &n} }},
	}
}

// defineLimits defines a flag for each limit, and returns what puts the given ones into resources.
func defineLimits(flags *flag.FlagSet) func(*specs.LinuxResources) {
	numbers := map[string]*int64{}
	for _, l := range limits() {
		numbers[l.name] = new(int64)
		if strings.HasPrefix(l.name, "memory") {
			flags.Var((*size)(numbers[l.name]), l.name, l.usage+", or with a unit such as m")
		} else {
			flags.Int64Var(numbers[l.name], l.name, 0, l.usage)
		}
	}
	cpus := flags.String("cpuset-cpus", "", "`processors` to use")
	mems := flags.String("cpuset-mems", "", "memory `nodes` to use")
	return func(r *specs.LinuxResources) {
		given := map[string]bool{}
		flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
		for _, l := range limits() {
			if given[l.name] {
				l.apply(r, *numbers[l.name])
			}
		}
		if given["cpuset-cpus"] || given["cpuset-mems"] {
			if r.CPU == nil {
				r.CPU = &specs.LinuxCPU{}
			}
			r.CPU.Cpus, r.CPU.Mems = *cpus, *mems
		}
	}
}
