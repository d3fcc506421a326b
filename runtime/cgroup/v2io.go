package cgroup

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// blockIOLimit sets weights, for which the kernel's BFQ scheduler has files of its own, and rates.
func (c *v2) blockIOLimit(io *specs.LinuxBlockIO) (v2Limit, error) {
	limit := v2Limit{field: "linux.resources.blockIO", controller: "io"}
	if io.LeafWeight != nil && *io.LeafWeight != 0 {
		return limit, unsupported("linux.resources.blockIO.leafWeight", "this host has cgroup v2")
	}
	bfq := exists(filepath.Join(c.dir, "io.bfq.weight")) || !exists(c.dir) && exists("/sys/module/bfq")
	if io.Weight != nil && *io.Weight != 0 {
		limit.files = append(limit.files, ioWeight(bfq, "", *io.Weight))
	}
	for _, device := range io.WeightDevice {
		if device.LeafWeight != nil && *device.LeafWeight != 0 {
			return limit, unsupported("linux.resources.blockIO.weightDevice.leafWeight", "this host has cgroup v2")
		}
		if device.Weight != nil && *device.Weight != 0 {
			limit.files = append(limit.files, ioWeight(bfq, fmt.Sprintf("%d:%d ", device.Major, device.Minor), *device.Weight))
		}
	}
	for _, throttle := range []struct {
		key     string
		devices []specs.LinuxThrottleDevice
	}{
		{"rbps", io.ThrottleReadBpsDevice},
		{"wbps", io.ThrottleWriteBpsDevice},
		{"riops", io.ThrottleReadIOPSDevice},
		{"wiops", io.ThrottleWriteIOPSDevice},
	} {
		for _, d := range throttle.devices {
			rate := "max" // no limit, as 0 is on v1
			if d.Rate != 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			limit.files = append(limit.files, setting{file: "io.max", value: fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, throttle.key, rate)})
		}
	}
	return limit, nil
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

// ioWeight sets a weight of v1's 10 to 1000. BFQ's file takes it as it is, io.weight has a range of 1 to 10000.
func ioWeight(bfq bool, device string, weight uint16) setting {
	if bfq {
		return setting{file: "io.bfq.weight", value: device + strconv.Itoa(int(weight))}
	}
	scaled := 1 + (max(int(weight), 10)-10)*9999/990
	if device == "" {
		device = "default "
	}
	return setting{file: "io.weight", value: device + strconv.Itoa(scaled)}
}

// hugepageLimit limits pages in use, and, where the kernel counts them, reserved ones: mmap reserves.
func hugepageLimit(page specs.LinuxHugepageLimit) v2Limit {
	return v2Limit{
		field: fmt.Sprintf("linux.resources.hugepageLimits of %q", page.Pagesize), controller: "hugetlb",
		files: []setting{
			{file: "hugetlb." + page.Pagesize + ".max", value: strconv.FormatUint(page.Limit, 10)},
			{file: "hugetlb." + page.Pagesize + ".rsvd.max", value: strconv.FormatUint(page.Limit, 10), optional: true},
		},
	}
}

func rdmaLimit(device string, rdma specs.LinuxRdma) v2Limit {
	line := device
	if rdma.HcaHandles != nil {
		line += fmt.Sprintf(" hca_handle=%d", *rdma.HcaHandles)
	}
	if rdma.HcaObjects != nil {
		line += fmt.Sprintf(" hca_object=%d", *rdma.HcaObjects)
	}
	return v2Limit{
		field: fmt.Sprintf("linux.resources.rdma of %q", device), controller: "rdma",
		files: []setting{{file: "rdma.max", value: line}},
	}
}

// unifiedLimits sets files by name, a line at a time, as most take one device or key a write.
func unifiedLimits(files map[string]string) ([]v2Limit, error) {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	var limits []v2Limit
	for _, name := range names {
		field := fmt.Sprintf("linux.resources.unified of %q", name)
		controller, _, ok := strings.Cut(name, ".")
		if !ok || controller == "" || strings.ContainsAny(name, "/\x00") {
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("%s: it is not the name of a controller's file, such as memory.high", field))
		}
		if controller == "cgroup" { // of every cgroup, not of a controller
			controller = ""
		}
		limit := v2Limit{field: field, controller: controller}
		for line := range strings.SplitSeq(strings.TrimSuffix(files[name], "\n"), "\n") {
			limit.files = append(limit.files, setting{file: name, value: line})
		}
		limits = append(limits, limit)
	}
	return limits, nil
}
