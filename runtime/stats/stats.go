// Package stats reads what a container's cgroup has used, in the shape that runc's events command prints.
package stats

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/resctrl"
)

// Stats is the data of an event of type stats.
type Stats struct {
	CPU               CPU                 `json:"cpu"`
	CPUSet            CPUSet              `json:"cpuset"`
	Memory            Memory              `json:"memory"`
	Pids              Pids                `json:"pids"`
	BlockIO           BlockIO             `json:"blkio"`
	Hugetlb           map[string]Huge     `json:"hugetlb"`
	IntelRdt          resctrl.Usage       `json:"intel_rdt"`
	NetworkInterfaces []map[string]uint64 `json:"network_interfaces"` // runc has it, and leaves it empty
}

// CPU is processor time in nanoseconds.
type CPU struct {
	Usage      CPUUsage   `json:"usage"`
	Throttling Throttling `json:"throttling"`
	Pressure   *Pressure  `json:"psi,omitempty"`
}

// CPUUsage is the time spent, on all processors and each.
type CPUUsage struct {
	Total        uint64   `json:"total,omitempty"`
	PerCPU       []uint64 `json:"percpu,omitempty"`
	PerCPUKernel []uint64 `json:"percpu_kernel,omitempty"`
	PerCPUUser   []uint64 `json:"percpu_user,omitempty"`
	Kernel       uint64   `json:"kernel"`
	User         uint64   `json:"user"`
}

// Throttling tells how often and how long the quota has held the container back.
type Throttling struct {
	Periods          uint64 `json:"periods,omitempty"`
	ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
	ThrottledTime    uint64 `json:"throttledTime,omitempty"`
}

// CPUSet is where the container may run, and cgroup v1's switches for that.
type CPUSet struct {
	CPUs                  []uint16 `json:"cpus,omitempty"`
	CPUExclusive          uint64   `json:"cpu_exclusive"`
	Mems                  []uint16 `json:"mems,omitempty"`
	MemHardwall           uint64   `json:"mem_hardwall"`
	MemExclusive          uint64   `json:"mem_exclusive"`
	MemoryMigrate         uint64   `json:"memory_migrate"`
	MemorySpreadPage      uint64   `json:"memory_spread_page"`
	MemorySpreadSlab      uint64   `json:"memory_spread_slab"`
	MemoryPressure        uint64   `json:"memory_pressure"`
	SchedLoadBalance      uint64   `json:"sched_load_balance"`
	SchedRelaxDomainLevel int64    `json:"sched_relax_domain_level"`
}

// Memory is in bytes. Swap counts memory too, as on cgroup v1.
type Memory struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     MemoryEntry       `json:"usage"`
	Swap      MemoryEntry       `json:"swap"`
	Kernel    MemoryEntry       `json:"kernel"`
	KernelTCP MemoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
	Pressure  *Pressure         `json:"psi,omitempty"`
}

// MemoryEntry is one kind of memory, with the number of times that its limit was hit.
type MemoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// Pids counts tasks. Without a limit Limit is 0.
type Pids struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

// BlockIO lists what was done to each device.
type BlockIO struct {
	ServiceBytes []BlockIOEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced     []BlockIOEntry `json:"ioServicedRecursive,omitempty"`
	Queued       []BlockIOEntry `json:"ioQueueRecursive,omitempty"`
	ServiceTime  []BlockIOEntry `json:"ioServiceTimeRecursive,omitempty"`
	WaitTime     []BlockIOEntry `json:"ioWaitTimeRecursive,omitempty"`
	Merged       []BlockIOEntry `json:"ioMergedRecursive,omitempty"`
	Time         []BlockIOEntry `json:"ioTimeRecursive,omitempty"`
	Sectors      []BlockIOEntry `json:"sectorsRecursive,omitempty"`
	Pressure     *Pressure      `json:"psi,omitempty"`
}

// BlockIOEntry is one operation (Read, Write, …) of one device.
type BlockIOEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

// Huge is the use of huge pages of one size, in bytes.
type Huge struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// Pressure is the kernel's pressure stall information.
type Pressure struct {
	Some Stall `json:"some"`
	Full Stall `json:"full"`
}

// Stall tells for which part of the time some or all tasks were waiting.
type Stall struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

// Read reads the statistics of the cgroup with these directories by controller, or one under "" on cgroup v2.
func Read(paths map[string]string) (*Stats, error) {
	r := &reader{}
	result := &Stats{Hugetlb: map[string]Huge{}}
	if dir, ok := paths[""]; ok && len(paths) == 1 {
		r.v2(dir, result)
	} else {
		r.v1(paths, result)
	}
	return result, r.err
}

// reader reads files of a cgroup until one can't be. A file that is absent is a feature that the kernel lacks.
type reader struct{ err error }

func (r *reader) text(dir, file string) string {
	if r.err != nil || dir == "" {
		return ""
	}
	content, err := os.ReadFile(filepath.Join(dir, file))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODEV):
		return ""
	case err != nil:
		r.err = err
	}
	return strings.TrimSpace(string(content))
}

func (r *reader) number(dir, file string) uint64 { return r.parse(r.text(dir, file)) }

// parse understands a number, "max" and nothing.
func (r *reader) parse(text string) uint64 {
	switch text {
	case "":
		return 0
	case "max":
		return math.MaxUint64
	}
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil && r.err == nil {
		r.err = err
	}
	return number
}

// table reads a file of lines with a name and a number each.
func (r *reader) table(dir, file string) map[string]uint64 {
	values := map[string]uint64{}
	for line := range strings.Lines(r.text(dir, file)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			values[name] = r.parse(value)
		}
	}
	return values
}

// ranges reads a list such as 0-2,7.
func (r *reader) ranges(dir, file string) []uint16 {
	var list []uint16
	for part := range strings.SplitSeq(r.text(dir, file), ",") {
		if part == "" {
			continue
		}
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		for n := r.parse(low); n <= r.parse(high) && n <= math.MaxUint16 && r.err == nil; n++ {
			list = append(list, uint16(n))
		}
	}
	return list
}

// device parses the start of a line of a block device, MAJOR:MINOR.
func (r *reader) device(text string) (entry BlockIOEntry, ok bool) {
	major, minor, ok := strings.Cut(text, ":")
	if !ok {
		return entry, false
	}
	return BlockIOEntry{Major: r.parse(major), Minor: r.parse(minor)}, true
}

// pageSizes lists the sizes of huge pages by the files of a cgroup, such as hugetlb.2MB.max for the suffix max.
func pageSizes(dir, suffix string) []string {
	if dir == "" {
		return nil
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var sizes []string
	for _, file := range files {
		name, huge := strings.CutPrefix(file.Name(), "hugetlb.")
		size, wanted := strings.CutSuffix(name, "."+suffix)
		if huge && wanted && !strings.Contains(size, ".") {
			sizes = append(sizes, size)
		}
	}
	return sizes
}
