package main

import (
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/runtime/config"
	"github.com/berthd/berth/runtime/container"
)

func (g *globals) update(args []string) (int, error) {
	flags := newFlags("update", "[options] ID")
	var file string
	both(flags.StringVar, &file, "resources,r", "`file` with linux.resources as JSON, - for stdin; the other flags are without effect then")
	set := defineLimits(flags)
	id, err := parseID(flags, args)
	if err != nil {
		return 1, err
	}
	c, err := container.Lock(g.root, id)
	if err != nil {
		return 1, err
	}
	defer c.Close()
	resources := &specs.LinuxResources{}
	if file != "" {
		resources, err = readResources(file)
	} else {
		err = set(resources)
	}
	if err != nil {
		return 1, err
	}
	return 0, c.Update(resources)
}

func readResources(file string) (*specs.LinuxResources, error) {
	var content []byte
	var err error
	if file == "-" {
		content, err = io.ReadAll(os.Stdin)
	} else {
		content, err = os.ReadFile(file)
	}
	resources := &specs.LinuxResources{}
	if err == nil {
		err = config.Decode(content, resources)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read resources %q: %w", file, err)
	}
	return resources, nil
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
func defineLimits(flags *flag.FlagSet) func(*specs.LinuxResources) error {
	numbers := map[string]*int64{}
	for _, l := range limits() {
		numbers[l.name] = flags.Int64(l.name, 0, l.usage)
	}
	cpus := flags.String("cpuset-cpus", "", "`processors` to use")
	mems := flags.String("cpuset-mems", "", "memory `nodes` to use")
	return func(r *specs.LinuxResources) error {
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
		if len(given) == 0 {
			return fmt.Errorf("update needs a limit to change, or --resources")
		}
		return nil
	}
}
