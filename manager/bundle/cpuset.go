package bundle

import (
	"os"
	"strconv"
	"strings"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// checkSets refuses processors and memory nodes that the host does not have: the kernel's own answer names neither.
func checkSets(asked *berthv1.Resources) error {
	for _, set := range []struct{ field, what, asked, online string }{
		{"cpuset_cpus", "CPUs", asked.GetCpusetCpus(), "/sys/devices/system/cpu/online"},
		{"cpuset_mems", "memory nodes", asked.GetCpusetMems(), "/sys/devices/system/node/online"},
	} {
		wanted, err := parseSet(set.asked)
		if err != nil {
			return invalidResource("%s %q is not a list of numbers and ranges, as 0-2,4", set.field, set.asked)
		}
		content, err := os.ReadFile(set.online)
		if err != nil {
			continue // a kernel without NUMA names no nodes, and refuses wrong ones itself
		}
		online := strings.TrimSpace(string(content))
		available, err := parseSet(online)
		if err != nil {
			continue
		}
		for number := range wanted {
			if !available[number] {
				return invalidResource("requested %s are not available - requested %s, available: %s", set.what, set.asked, online)
			}
		}
	}
	return nil
}

// setLength is how much the kernel reads of such a list.
const setLength = 4096

// parseSet reads the list format of cpuset(7). Its numbers have 16 bits: a range of billions would fill the memory.
func parseSet(text string) (map[int]bool, error) {
	set := map[int]bool{}
	if text == "" {
		return set, nil
	}
	if len(text) > setLength {
		return nil, strconv.ErrRange
	}
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
		if err != nil {
			return nil, err
		}
		last, err := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
		if err != nil || last < first {
			return nil, strconv.ErrRange
		}
		for number := first; number <= last; number++ {
			set[int(number)] = true
		}
	}
	return set, nil
}
