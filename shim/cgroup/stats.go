package cgroup

import (
	"fmt"
	"strings"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Stats returns what the container uses, as containerd's message for the cgroup version in use.
func (c Cgroup) Stats() (*anypb.Any, error) {
	var metrics proto.Message = c.version1()
	if c.unified != "" {
		metrics = c.version2()
	}
	value, err := proto.Marshal(metrics)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the statistics: %w", err)
	}
	return &anypb.Any{TypeUrl: string(metrics.ProtoReflect().Descriptor().FullName()), Value: value}, nil
}

func (c Cgroup) version2() *stats2.Metrics {
	dir := c.unified
	cpu, events := pairs(dir, "cpu.stat"), pairs(dir, "memory.events")
	return &stats2.Metrics{
		Pids: &stats2.PidsStat{Current: number(dir, "pids.current"), Limit: number(dir, "pids.max")},
		CPU: &stats2.CPUStat{
			UsageUsec: cpu["usage_usec"], UserUsec: cpu["user_usec"], SystemUsec: cpu["system_usec"],
			NrPeriods: cpu["nr_periods"], NrThrottled: cpu["nr_throttled"], ThrottledUsec: cpu["throttled_usec"],
			NrBursts: cpu["nr_bursts"], BurstUsec: cpu["burst_usec"],
		},
		Memory: memory2(dir),
		Io:     &stats2.IOStat{Usage: io2(dir)},
		MemoryEvents: &stats2.MemoryEvents{
			Low: events["low"], High: events["high"], Max: events["max"], Oom: events["oom"],
			OomKill: events["oom_kill"], OomGroupKill: events["oom_group_kill"],
		},
	}
}

func memory2(dir string) *stats2.MemoryStat {
	stat := pairs(dir, "memory.stat")
	return &stats2.MemoryStat{
		Anon: stat["anon"], File: stat["file"], KernelStack: stat["kernel_stack"], Slab: stat["slab"], Sock: stat["sock"],
		Shmem: stat["shmem"], FileMapped: stat["file_mapped"], FileDirty: stat["file_dirty"],
		FileWriteback: stat["file_writeback"], AnonThp: stat["anon_thp"],
		InactiveAnon: stat["inactive_anon"], ActiveAnon: stat["active_anon"],
		InactiveFile: stat["inactive_file"], ActiveFile: stat["active_file"], Unevictable: stat["unevictable"],
		SlabReclaimable: stat["slab_reclaimable"], SlabUnreclaimable: stat["slab_unreclaimable"],
		Pgfault: stat["pgfault"], Pgmajfault: stat["pgmajfault"],
		WorkingsetRefault:     stat["workingset_refault_anon"] + stat["workingset_refault_file"],
		WorkingsetActivate:    stat["workingset_activate_anon"] + stat["workingset_activate_file"],
		WorkingsetNodereclaim: stat["workingset_nodereclaim"],
		Pgrefill:              stat["pgrefill"], Pgscan: stat["pgscan"], Pgsteal: stat["pgsteal"],
		Pgactivate: stat["pgactivate"], Pgdeactivate: stat["pgdeactivate"],
		Pglazyfree: stat["pglazyfree"], Pglazyfreed: stat["pglazyfreed"],
		ThpFaultAlloc: stat["thp_fault_alloc"], ThpCollapseAlloc: stat["thp_collapse_alloc"],
		Usage: number(dir, "memory.current"), UsageLimit: number(dir, "memory.max"), MaxUsage: number(dir, "memory.peak"),
		SwapUsage: number(dir, "memory.swap.current"), SwapLimit: number(dir, "memory.swap.max"),
		SwapMaxUsage: number(dir, "memory.swap.peak"),
	}
}

// io2 reads lines of "major:minor rbytes=1 wbytes=2 rios=3 wios=4 …".
func io2(dir string) []*stats2.IOEntry {
	var entries []*stats2.IOEntry
	for line := range strings.Lines(content(dir, "io.stat")) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		major, minor, ok := device(fields[0])
		if !ok {
			continue
		}
		values := map[string]uint64{}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			values[key] = parseNumber(value)
		}
		entries = append(entries, &stats2.IOEntry{
			Major: major, Minor: minor,
			Rbytes: values["rbytes"], Wbytes: values["wbytes"], Rios: values["rios"], Wios: values["wios"],
		})
	}
	return entries
}

func (c Cgroup) version1() *stats1.Metrics {
	throttling := pairs(c.v1["cpu"], "cpu.stat")
	oom := pairs(c.v1["memory"], "memory.oom_control")
	account := c.v1["cpuacct"]
	var perCPU []uint64
	for field := range strings.FieldsSeq(content(account, "cpuacct.usage_percpu")) {
		perCPU = append(perCPU, parseNumber(field))
	}
	return &stats1.Metrics{
		Pids: &stats1.PidsStat{Current: number(c.v1["pids"], "pids.current"), Limit: limit1(c.v1["pids"], "pids.max")},
		CPU: &stats1.CPUStat{
			Usage: &stats1.CPUUsage{
				Total: number(account, "cpuacct.usage"), PerCPU: perCPU,
				Kernel: number(account, "cpuacct.usage_sys"), User: number(account, "cpuacct.usage_user"),
			},
			Throttling: &stats1.Throttle{
				Periods: throttling["nr_periods"], ThrottledPeriods: throttling["nr_throttled"],
				ThrottledTime: throttling["throttled_time"],
			},
		},
		Memory: memory1(c.v1["memory"]),
		Blkio: &stats1.BlkIOStat{
			IoServiceBytesRecursive: blkio1(c.v1["blkio"], "blkio.throttle.io_service_bytes_recursive"),
			IoServicedRecursive:     blkio1(c.v1["blkio"], "blkio.throttle.io_serviced_recursive"),
		},
		MemoryOomControl: &stats1.MemoryOomControl{
			OomKillDisable: oom["oom_kill_disable"], UnderOom: oom["under_oom"], OomKill: oom["oom_kill"],
		},
	}
}

// limit1 reads a limit of which containerd's message says 0 where there is none.
func limit1(dir, file string) uint64 {
	if strings.TrimSpace(content(dir, file)) == "max" {
		return 0
	}
	return number(dir, file)
}

func memory1(dir string) *stats1.MemoryStat {
	stat := pairs(dir, "memory.stat")
	entry := func(prefix string) *stats1.MemoryEntry {
		return &stats1.MemoryEntry{
			Limit: number(dir, prefix+".limit_in_bytes"), Usage: number(dir, prefix+".usage_in_bytes"),
			Max: number(dir, prefix+".max_usage_in_bytes"), Failcnt: number(dir, prefix+".failcnt"),
		}
	}
	return &stats1.MemoryStat{
		Cache: stat["cache"], RSS: stat["rss"], RSSHuge: stat["rss_huge"], MappedFile: stat["mapped_file"],
		Dirty: stat["dirty"], Writeback: stat["writeback"],
		PgPgIn: stat["pgpgin"], PgPgOut: stat["pgpgout"], PgFault: stat["pgfault"], PgMajFault: stat["pgmajfault"],
		InactiveAnon: stat["inactive_anon"], ActiveAnon: stat["active_anon"],
		InactiveFile: stat["inactive_file"], ActiveFile: stat["active_file"], Unevictable: stat["unevictable"],
		HierarchicalMemoryLimit: stat["hierarchical_memory_limit"], HierarchicalSwapLimit: stat["hierarchical_memsw_limit"],
		TotalCache: stat["total_cache"], TotalRSS: stat["total_rss"], TotalRSSHuge: stat["total_rss_huge"],
		TotalMappedFile: stat["total_mapped_file"], TotalDirty: stat["total_dirty"], TotalWriteback: stat["total_writeback"],
		TotalPgPgIn: stat["total_pgpgin"], TotalPgPgOut: stat["total_pgpgout"],
		TotalPgFault: stat["total_pgfault"], TotalPgMajFault: stat["total_pgmajfault"],
		TotalInactiveAnon: stat["total_inactive_anon"], TotalActiveAnon: stat["total_active_anon"],
		TotalInactiveFile: stat["total_inactive_file"], TotalActiveFile: stat["total_active_file"],
		TotalUnevictable: stat["total_unevictable"],
		Usage:            entry("memory"), Swap: entry("memory.memsw"), Kernel: entry("memory.kmem"), KernelTCP: entry("memory.kmem.tcp"),
	}
}

// blkio1 reads lines of "major:minor operation value", and a last one with a total.
func blkio1(dir, file string) []*stats1.BlkIOEntry {
	var entries []*stats1.BlkIOEntry
	for line := range strings.Lines(content(dir, file)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		if major, minor, ok := device(fields[0]); ok {
			entries = append(entries, &stats1.BlkIOEntry{Major: major, Minor: minor, Op: fields[1], Value: parseNumber(fields[2])})
		}
	}
	return entries
}
