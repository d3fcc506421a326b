package stats

import (
	"math"
	"strings"
)

// tick is the unit of cpuacct.stat: the kernel shows user space hundredths of a second on every architecture of ours.
const tick = 10_000_000

func (r *reader) v1(paths map[string]string, s *Stats) {
	r.cpuV1(paths["cpuacct"], paths["cpu"], &s.CPU)
	r.cpuset(paths["cpuset"], &s.CPUSet)
	r.memoryV1(paths["memory"], &s.Memory)
	r.pids(paths["pids"], &s.Pids)
	r.blockV1(paths["blkio"], &s.BlockIO)
	dir := paths["hugetlb"]
	for _, size := range pageSizes(dir, "limit_in_bytes") {
		s.Hugetlb[size] = Huge{
			Usage: r.number(dir, "hugetlb."+size+".usage_in_bytes"), Max: r.number(dir, "hugetlb."+size+".max_usage_in_bytes"),
			Failcnt: r.number(dir, "hugetlb."+size+".failcnt"),
		}
	}
}

func (r *reader) cpuV1(accounting, limits string, cpu *CPU) {
	cpu.Usage.Total = r.number(accounting, "cpuacct.usage")
	for field := range strings.FieldsSeq(r.text(accounting, "cpuacct.usage_percpu")) {
		cpu.Usage.PerCPU = append(cpu.Usage.PerCPU, r.parse(field))
	}
	for line := range strings.Lines(r.text(accounting, "cpuacct.usage_all")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] != "cpu" {
			cpu.Usage.PerCPUUser = append(cpu.Usage.PerCPUUser, r.parse(fields[1]))
			cpu.Usage.PerCPUKernel = append(cpu.Usage.PerCPUKernel, r.parse(fields[2]))
		}
	}
	spent := r.table(accounting, "cpuacct.stat")
	cpu.Usage.User, cpu.Usage.Kernel = spent["user"]*tick, spent["system"]*tick
	throttled := r.table(limits, "cpu.stat")
	cpu.Throttling = Throttling{throttled["nr_periods"], throttled["nr_throttled"], throttled["throttled_time"]}
}

func (r *reader) cpuset(dir string, c *CPUSet) {
	c.CPUs, c.Mems = r.ranges(dir, "cpuset.cpus"), r.ranges(dir, "cpuset.mems")
	c.CPUExclusive = r.number(dir, "cpuset.cpu_exclusive")
	c.MemHardwall = r.number(dir, "cpuset.mem_hardwall")
	c.MemExclusive = r.number(dir, "cpuset.mem_exclusive")
	c.MemoryMigrate = r.number(dir, "cpuset.memory_migrate")
	c.MemorySpreadPage = r.number(dir, "cpuset.memory_spread_page")
	c.MemorySpreadSlab = r.number(dir, "cpuset.memory_spread_slab")
	c.MemoryPressure = r.number(dir, "cpuset.memory_pressure")
	c.SchedLoadBalance = r.number(dir, "cpuset.sched_load_balance")
	if level := r.text(dir, "cpuset.sched_relax_domain_level"); level == "-1" {
		c.SchedRelaxDomainLevel = -1
	} else {
		c.SchedRelaxDomainLevel = int64(r.parse(level))
	}
}

func (r *reader) memoryV1(dir string, m *Memory) {
	m.Raw = r.table(dir, "memory.stat")
	m.Cache = m.Raw["cache"]
	for kind, entry := range map[string]*MemoryEntry{
		"memory": &m.Usage, "memory.memsw": &m.Swap, "memory.kmem": &m.Kernel, "memory.kmem.tcp": &m.KernelTCP,
	} {
		*entry = MemoryEntry{
			Limit: r.number(dir, kind+".limit_in_bytes"), Usage: r.number(dir, kind+".usage_in_bytes"),
			Max: r.number(dir, kind+".max_usage_in_bytes"), Failcnt: r.number(dir, kind+".failcnt"),
		}
	}
}

func (r *reader) pids(dir string, p *Pids) {
	p.Current, p.Limit = r.number(dir, "pids.current"), r.number(dir, "pids.max")
	if p.Limit == math.MaxUint64 {
		p.Limit = 0
	}
}

// blockV1 prefers the files of the BFQ scheduler, which know more, to those of throttling, which are always there.
func (r *reader) blockV1(dir string, b *BlockIO) {
	for _, part := range []struct {
		name  string
		into  *[]BlockIOEntry
		other string
	}{
		{"io_service_bytes_recursive", &b.ServiceBytes, "blkio.throttle.io_service_bytes_recursive"},
		{"io_serviced_recursive", &b.Serviced, "blkio.throttle.io_serviced_recursive"},
		{"io_queued_recursive", &b.Queued, ""},
		{"io_service_time_recursive", &b.ServiceTime, ""},
		{"io_wait_time_recursive", &b.WaitTime, ""},
		{"io_merged_recursive", &b.Merged, ""},
		{"time_recursive", &b.Time, ""},
		{"sectors_recursive", &b.Sectors, ""},
	} {
		*part.into = r.blockEntries(dir, "blkio.bfq."+part.name)
		if len(*part.into) == 0 && part.other != "" {
			*part.into = r.blockEntries(dir, part.other)
		}
	}
}

// blockEntries reads lines of MAJOR:MINOR [OPERATION] VALUE; a total at the end has no device.
func (r *reader) blockEntries(dir, file string) []BlockIOEntry {
	var entries []BlockIOEntry
	for line := range strings.Lines(r.text(dir, file)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		entry, ok := r.device(fields[0])
		if !ok {
			continue
		}
		entry.Value = r.parse(fields[len(fields)-1])
		if len(fields) == 3 {
			entry.Op = fields[1]
		}
		entries = append(entries, entry)
	}
	return entries
}
