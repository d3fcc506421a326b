package cgroup

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// blockIOLimits sets weights and rates of block devices. Weights that are zero are unset: Docker sends them always.
func (c *v1) blockIOLimits(io *specs.LinuxBlockIO) []v1Limit {
	limits := c.blockWeights(io)
	for _, throttle := range []struct {
		file, field string
		devices     []specs.LinuxThrottleDevice
	}{
		{"read_bps_device", "throttleReadBpsDevice", io.ThrottleReadBpsDevice},
		{"write_bps_device", "throttleWriteBpsDevice", io.ThrottleWriteBpsDevice},
		{"read_iops_device", "throttleReadIOPSDevice", io.ThrottleReadIOPSDevice},
		{"write_iops_device", "throttleWriteIOPSDevice", io.ThrottleWriteIOPSDevice},
	} {
		limit := v1Limit{field: "linux.resources.blockIO." + throttle.field, controller: "blkio"}
		for _, d := range throttle.devices {
			limit.files = append(limit.files, setting{file: "blkio.throttle." + throttle.file, value: fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate)})
		}
		limits = append(limits, limit)
	}
	return limits
}

// blockWeights lists the weights that are set, for the files of the scheduler that the kernel has: BFQ, or in old ones CFQ.
func (c *v1) blockWeights(io *specs.LinuxBlockIO) []v1Limit {
	prefix := "blkio."
	if _, err := os.Stat(filepath.Join(c.paths["blkio"], "blkio.bfq.weight")); err == nil {
		prefix = "blkio.bfq."
	}
	var weights []v1Limit
	add := func(field, file, device string, weight *uint16) {
		if weight != nil && *weight != 0 {
			weights = append(weights, v1Limit{
				field: "linux.resources.blockIO." + field, controller: "blkio",
				files: []setting{{file: prefix + file, value: fmt.Sprintf("%s%d", device, *weight)}},
			})
		}
	}
	add("weight", "weight", "", io.Weight)
	add("leafWeight", "leaf_weight", "", io.LeafWeight)
	for _, d := range io.WeightDevice {
		device := fmt.Sprintf("%d:%d ", d.Major, d.Minor)
		add("weightDevice.weight", "weight_device", device, d.Weight)
		add("weightDevice.leafWeight", "leaf_weight_device", device, d.LeafWeight)
	}
	return weights
}
