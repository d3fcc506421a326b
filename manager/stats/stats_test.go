package stats

import (
	"testing"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func pack(t *testing.T, message proto.Message) *anypb.Any {
	t.Helper()
	value, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: string(message.ProtoReflect().Descriptor().FullName()), Value: value}
}

// hostMemory is what a container without a limit can use.
func hostMemory(t *testing.T) uint64 {
	t.Helper()
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		t.Fatal(err)
	}
	return host.Totalram * uint64(host.Unit)
}

func TestBothVersionsGiveOneSample(t *testing.T) {
	for name, metrics := range map[string]proto.Message{
		"v1": &stats1.Metrics{
			CPU:  &stats1.CPUStat{Usage: &stats1.CPUUsage{Total: 3000, User: 2000, Kernel: 1000}},
			Pids: &stats1.PidsStat{Current: 4},
			Memory: &stats1.MemoryStat{
				Usage: &stats1.MemoryEntry{Usage: 100, Limit: 9223372036854771712}, TotalInactiveFile: 30, TotalCache: 40,
			},
			Blkio: &stats1.BlkIOStat{IoServiceBytesRecursive: []*stats1.BlkIOEntry{{Op: "Read", Value: 5}, {Op: "Write", Value: 6}, {Op: "Total", Value: 11}}},
		},
		"v2": &stats2.Metrics{
			CPU:    &stats2.CPUStat{UsageUsec: 3, UserUsec: 2, SystemUsec: 1},
			Pids:   &stats2.PidsStat{Current: 4},
			Memory: &stats2.MemoryStat{Usage: 100, UsageLimit: 1<<64 - 1, InactiveFile: 30, File: 40},
			Io:     &stats2.IOStat{Usage: []*stats2.IOEntry{{Rbytes: 2, Wbytes: 6}, {Rbytes: 3}}},
		},
	} {
		sample, err := Sample(pack(t, metrics), 1)
		if err != nil {
			t.Fatal(err)
		}
		if cpu := sample.GetCpu(); cpu.GetUsage() != 3000 || cpu.GetUser() != 2000 || cpu.GetKernel() != 1000 || cpu.GetSystemUsage() == 0 {
			t.Errorf("%s: processors %v", name, cpu)
		}
		if memory := sample.GetMemory(); memory.GetUsage() != 70 || memory.GetLimit() != hostMemory(t) || memory.GetCache() != 40 {
			t.Errorf("%s: memory %v", name, memory)
		}
		if sample.GetPids() != 4 || sample.GetBlockRead() != 5 || sample.GetBlockWritten() != 6 {
			t.Errorf("%s: %v", name, sample)
		}
	}
	if _, err := Sample(&anypb.Any{TypeUrl: "other"}, 1); err == nil {
		t.Error("metrics of another type were taken")
	}
}

func TestKernelTables(t *testing.T) {
	if got := hostCPU("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1\n"); got != 36*10_000_000 {
		t.Errorf("processor time %d", got)
	}
	got := interfaces("Inter-|   Receive  |  Transmit\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n")
	if eth := got["eth0"]; len(got) != 1 || eth.GetRxBytes() != 10 || eth.GetRxDropped() != 4 || eth.GetTxBytes() != 50 || eth.GetTxDropped() != 8 {
		t.Errorf("interfaces %v", got)
	}
}
