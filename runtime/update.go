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
	set := g.defineLimits(flags)
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
	resources := set()
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

// number reads a limit: what can't be negative must not be.
func number(signed bool) func(text string) (int64, error) {
	return func(text string) (int64, error) {
		n, err := strconv.ParseInt(text, 10, 64)
		switch {
		case err != nil:
			return 0, errors.New("it is not a whole number")
		case n < 0 && !signed:
			return 0, errors.New("it must not be negative")
		}
		return n, nil
	}
}

// size reads a number of bytes, with a unit of 1024 or its powers behind it or not; -1 is no limit.
func size(text string) (int64, error) {
	if text == "-1" {
		return -1, nil
	}
	digits := strings.TrimRight(strings.ToLower(text), "kmgtpib ")
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n < 0 || math.IsInf(n, 0) || math.IsNaN(n) {
		return 0, errors.New("it is not a number of bytes such as 1048576 or 1m")
	}
	unit := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(strings.ToLower(text[len(digits):])), "b"), "i")
	power := strings.Index("kmgtp", unit)
	if len(unit) > 1 || power < 0 {
		return 0, fmt.Errorf("%q is not a unit such as k, m or g", text[len(digits):])
	}
	factor := int64(1)
	if unit != "" {
		factor <<= 10 * (power + 1)
	}
	if whole, err := strconv.ParseInt(digits, 10, 64); err == nil && whole <= math.MaxInt64/factor {
		return whole * factor, nil
	}
	if n *= float64(factor); n >= math.MaxInt64 {
		return 0, errors.New("it is out of range")
	}
	return int64(n), nil
}

// limit is a flag for one number of the resources.
type limit struct {
	name, usage string
	read        func(text string) (int64, error)
	apply       func(r *specs.LinuxResources, n int64)
}

func limits() []limit {
	unsigned := func(n int64) *uint64 { u := uint64(n); return &u }
	count, signed := number(false), number(true)
	return []limit{
		{"blkio-weight", "weight of block I/O", weight, func(r *specs.LinuxResources, n int64) {
			weight := uint16(n)
			r.BlockIO = &specs.LinuxBlockIO{Weight: &weight}
		}},
		{"cpu-period", "CFS period in microseconds", count, func(r *specs.LinuxResources, n int64) { r.CPU.Period = unsigned(n) }},
		{"cpu-quota", "CFS quota in microseconds", signed, func(r *specs.LinuxResources, n int64) { r.CPU.Quota = &n }},
		{"cpu-burst", "CFS burst in microseconds", count, func(r *specs.LinuxResources, n int64) { r.CPU.Burst = unsigned(n) }},
		{"cpu-rt-period", "real-time period in microseconds", count, func(r *specs.LinuxResources, n int64) { r.CPU.RealtimePeriod = unsigned(n) }},
		{"cpu-rt-runtime", "real-time runtime in microseconds", signed, func(r *specs.LinuxResources, n int64) { r.CPU.RealtimeRuntime = &n }},
		{"cpu-share", "relative share of the processors", count, func(r *specs.LinuxResources, n int64) { r.CPU.Shares = unsigned(n) }},
		{"cpu-idle", "1 for SCHED_IDLE, 0 for the default", signed, func(r *specs.LinuxResources, n int64) { r.CPU.Idle = &n }},
		{"memory", "limit of memory in bytes, or with a unit such as m", size, func(r *specs.LinuxResources, n int64) { r.Memory.Limit = &n }},
		{"memory-reservation", "soft limit of memory", size, func(r *specs.LinuxResources, n int64) { r.Memory.Reservation = &n }},
		{"memory-swap", "limit of memory and swap, -1 for none", size, func(r *specs.LinuxResources, n int64) { r.Memory.Swap = &n }},
		{"pids-limit", "limit of processes", signed, func(r *specs.LinuxResources, n int64) { r.Pids = &specs.LinuxPids{Limit: &n} }},
	}
}

func weight(text string) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, errors.New("it is not a number from 10 to 1000")
	}
	return int64(n), nil
}

// defineLimits defines a flag for each limit, and returns what gives the resources of those that were given. An empty
// value is as none.
func (g *globals) defineLimits(flags *flag.FlagSet) func() *specs.LinuxResources {
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}
	for _, l := range limits() {
		flags.Func(l.name, l.usage, func(text string) error {
			if text == "" {
				return nil
			}
			n, err := l.read(text)
			if err == nil {
				l.apply(r, n)
			}
			return err
		})
	}
	flags.StringVar(&r.CPU.Cpus, "cpuset-cpus", "", "`processors` to use")
	flags.StringVar(&r.CPU.Mems, "cpuset-mems", "", "memory `nodes` to use")
	for _, name := range []string{"kernel-memory", "kernel-memory-tcp"} {
		flags.Func(name, "without effect, as the kernel has no such limit any more", func(text string) error {
			g.warn("--" + name + " is without effect: the kernel has no such limit any more")
			return nil
		})
	}
	return func() *specs.LinuxResources { return r }
}
