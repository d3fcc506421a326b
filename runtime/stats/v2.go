package stats

import (
	"math"
	"strconv"
	"strings"
)

const microsecond = 1000

func (r *reader) v2(dir string, s *Stats) {
	spent := r.table(dir, "cpu.stat")
	s.CPU.Usage = CPUUsage{
		Total: spent["usage_usec"] * microsecond, User: spent["user_usec"] * microsecond, Kernel: spent["system_usec"] * microsecond,
	}
	s.CPU.Throttling = Throttling{spent["nr_periods"], spent["nr_throttled"], spent["throttled_usec"] * microsecond}
	s.CPU.Pressure = r.pressure(dir, "cpu.pressure")
	r.memoryV2(dir, &s.Memory)
	r.pids(dir, &s.Pids)
	r.blockV2(dir, &s.BlockIO)
	for _, size := range pageSizes(dir, "max") {
		s.Hugetlb[size] = Huge{
			Usage:   r.number(dir, "hugetlb."+size+".current"),
			Failcnt: r.table(dir, "hugetlb."+size+".events")["max"],
		}
	}
}

func (r *reader) memoryV2(dir string, m *Memory) {
	m.Raw = r.table(dir, "memory.stat")
	m.Cache = m.Raw["file"]
	m.Pressure = r.pressure(dir, "memory.pressure")
	m.Usage = MemoryEntry{
		Limit: r.number(dir, "memory.max"), Usage: r.number(dir, "memory.current"), Max: r.number(dir, "memory.peak"),
		Failcnt: r.table(dir, "memory.events")["max"],
	}
	if r.text(dir, "memory.swap.current") == "" { // the kernel doesn't account for swap
		return
	}
	m.Swap = MemoryEntry{
		Limit: r.number(dir, "memory.swap.max"), Usage: r.number(dir, "memory.swap.current") + m.Usage.Usage,
		Max: r.number(dir, "memory.swap.peak"), Failcnt: r.table(dir, "memory.swap.events")["max"],
	}
	if m.Swap.Limit != math.MaxUint64 && m.Usage.Limit != math.MaxUint64 {
		m.Swap.Limit += m.Usage.Limit
	}
}

// blockV2 reads lines of MAJOR:MINOR KEY=VALUE….
func (r *reader) blockV2(dir string, b *BlockIO) {
	b.Pressure = r.pressure(dir, "io.pressure")
	for line := range strings.Lines(r.text(dir, "io.stat")) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		entry, ok := r.device(fields[0])
		if !ok {
			continue
		}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			into := &b.ServiceBytes
			switch key {
			case "rbytes", "rios":
				entry.Op = "Read"
			case "wbytes", "wios":
				entry.Op = "Write"
			case "dbytes", "dios":
				entry.Op = "Discard"
			default:
				continue
			}
			if strings.HasSuffix(key, "ios") {
				into = &b.Serviced
			}
			entry.Value = r.parse(value)
			*into = append(*into, entry)
		}
	}
}

// pressure reads lines of "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" and the same with "full".
func (r *reader) pressure(dir, file string) *Pressure {
	text := r.text(dir, file)
	if text == "" {
		return nil
	}
	p := &Pressure{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		stall := &p.Some
		if fields[0] == "full" {
			stall = &p.Full
		}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			if key == "total" {
				stall.Total = r.parse(value)
				continue
			}
			average, err := strconv.ParseFloat(value, 64)
			if err != nil && r.err == nil {
				r.err = err
			}
			switch key {
			case "avg10":
				stall.Avg10 = average
			case "avg60":
				stall.Avg60 = average
			case "avg300":
				stall.Avg300 = average
			}
		}
	}
	return p
}
