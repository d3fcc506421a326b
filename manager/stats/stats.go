// Package stats turns what cgroups and the kernel count into a sample of what a container uses.
package stats

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Sample makes a sample of a shim's metrics, and of the network interfaces that the process pid has.
func Sample(metrics *anypb.Any, pid uint32) (*berthv1.StatsContainersResponse, error) {
	sample, err := decode(metrics)
	if err != nil {
		return nil, fmt.Errorf("cannot decode what a container uses: %w", err)
	}
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		return nil, fmt.Errorf("cannot tell the host's memory: %w", err)
	}
	// Without a limit of its own a container has the host's memory, as docker says it too.
	if total := host.Totalram * uint64(host.Unit); sample.Memory.Limit == 0 || sample.Memory.Limit > total {
		sample.Memory.Limit = total
	}
	sample.ReadAt = timestamppb.Now()
	sample.Cpu.OnlineCpus = uint32(runtime.NumCPU())
	if content, err := os.ReadFile("/proc/stat"); err == nil {
		sample.Cpu.SystemUsage = hostCPU(string(content))
	}
	if content, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid)); err == nil {
		sample.Networks = interfaces(string(content))
	}
	return sample, nil
}

// decode reads the metrics of either version of cgroups. containerd's type URLs have no slash, so that anypb can't.
func decode(metrics *anypb.Any) (*berthv1.StatsContainersResponse, error) {
	switch metrics.GetTypeUrl() {
	case "io.containerd.cgroups.v2.Metrics":
		var m stats2.Metrics
		if err := proto.Unmarshal(metrics.GetValue(), &m); err != nil {
			return nil, err
		}
		return version2(&m), nil
	case "io.containerd.cgroups.v1.Metrics":
		var m stats1.Metrics
		if err := proto.Unmarshal(metrics.GetValue(), &m); err != nil {
			return nil, err
		}
		return version1(&m), nil
	}
	return nil, fmt.Errorf("metrics of unknown type %q", metrics.GetTypeUrl())
}

// unlimited is more than any limit that somebody has set: cgroup v1 has no other way to say that there is none.
const unlimited = 1 << 62

func limit(value uint64) uint64 {
	if value >= unlimited {
		return 0
	}
	return value
}

func version1(m *stats1.Metrics) *berthv1.StatsContainersResponse {
	usage, throttling, memory := m.GetCPU().GetUsage(), m.GetCPU().GetThrottling(), m.GetMemory()
	cache := memory.GetTotalInactiveFile()
	sample := &berthv1.StatsContainersResponse{
		Cpu: &berthv1.CPUStats{
			Usage: usage.GetTotal(), User: usage.GetUser(), Kernel: usage.GetKernel(),
			Periods: throttling.GetPeriods(), ThrottledPeriods: throttling.GetThrottledPeriods(), Throttled: throttling.GetThrottledTime(),
		},
		Memory: &berthv1.MemoryStats{
			Usage: memory.GetUsage().GetUsage() - min(cache, memory.GetUsage().GetUsage()), Limit: limit(memory.GetUsage().GetLimit()),
			Cache: memory.GetTotalCache(), MaxUsage: memory.GetUsage().GetMax(),
		},
		Pids: m.GetPids().GetCurrent(), PidsLimit: limit(m.GetPids().GetLimit()),
	}
	for _, entry := range m.GetBlkio().GetIoServiceBytesRecursive() {
		switch strings.ToLower(entry.GetOp()) {
		case "read":
			sample.BlockRead += entry.GetValue()
		case "write":
			sample.BlockWritten += entry.GetValue()
		}
	}
	return sample
}

func version2(m *stats2.Metrics) *berthv1.StatsContainersResponse {
	const microsecond = uint64(time.Microsecond)
	cpu, memory := m.GetCPU(), m.GetMemory()
	sample := &berthv1.StatsContainersResponse{
		Cpu: &berthv1.CPUStats{
			Usage: cpu.GetUsageUsec() * microsecond, User: cpu.GetUserUsec() * microsecond, Kernel: cpu.GetSystemUsec() * microsecond,
			Periods: cpu.GetNrPeriods(), ThrottledPeriods: cpu.GetNrThrottled(), Throttled: cpu.GetThrottledUsec() * microsecond,
		},
		Memory: &berthv1.MemoryStats{
			Usage: memory.GetUsage() - min(memory.GetInactiveFile(), memory.GetUsage()), Limit: limit(memory.GetUsageLimit()),
			Cache: memory.GetFile(), MaxUsage: memory.GetMaxUsage(),
		},
		Pids: m.GetPids().GetCurrent(), PidsLimit: limit(m.GetPids().GetLimit()),
	}
	for _, entry := range m.GetIo().GetUsage() {
		sample.BlockRead += entry.GetRbytes()
		sample.BlockWritten += entry.GetWbytes()
	}
	return sample
}

// clockTick is how long each unit of /proc/stat is, on every architecture that Go knows.
const clockTick = uint64(10 * time.Millisecond)

// hostCPU is the time that all processors have spent, in nanoseconds: the first eight numbers of /proc/stat's first line.
func hostCPU(content string) uint64 {
	line, _, _ := strings.Cut(content, "\n")
	total := uint64(0)
	for i, field := range strings.Fields(line) {
		if value, err := strconv.ParseUint(field, 10, 64); err == nil && i <= 8 {
			total += value
		}
	}
	return total * clockTick
}

// interfaces reads /proc/PID/net/dev: a line "eth0: BYTES PACKETS ERRORS DROPPED …", eight numbers for each direction.
func interfaces(content string) map[string]*berthv1.NetworkStats {
	result := map[string]*berthv1.NetworkStats{}
	for line := range strings.Lines(content) {
		name, numbers, found := strings.Cut(strings.TrimSpace(line), ":")
		fields := strings.Fields(numbers)
		if !found || len(fields) < 16 || name == "lo" {
			continue
		}
		var n [16]uint64
		for i := range n {
			n[i], _ = strconv.ParseUint(fields[i], 10, 64) // the kernel writes numbers
		}
		result[name] = &berthv1.NetworkStats{
			RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3], TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		}
	}
	return result
}
