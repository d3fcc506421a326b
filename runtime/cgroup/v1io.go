package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// limitBlockIO sets weights and rates of block devices. Weights that are zero are unset: Docker sends them always.
func (c *v1) limitBlockIO(io *specs.LinuxBlockIO, create bool) error {
	weights := blockWeights(io)
	if len(weights) > 0 {
		if err := c.setWeights(weights); err != nil {
			return err
		}
	}
	rates := &specs.LinuxBlockIO{
		ThrottleReadBpsDevice: io.ThrottleReadBpsDevice, ThrottleWriteBpsDevice: io.ThrottleWriteBpsDevice,
		ThrottleReadIOPSDevice: io.ThrottleReadIOPSDevice, ThrottleWriteIOPSDevice: io.ThrottleWriteIOPSDevice,
	}
	if len(rates.ThrottleReadBpsDevice)+len(rates.ThrottleWriteBpsDevice)+len(rates.ThrottleReadIOPSDevice)+len(rates.ThrottleWriteIOPSDevice) == 0 {
		return nil
	}
	limit := v1Limit{"linux.resources.blockIO", cgroup1.Blkio, func(root string) (creator, error) { return cgroup1.NewBlkio(root), nil }}
	return c.set(limit, &specs.LinuxResources{BlockIO: rates}, create)
}

// blockWeights lists the weights that are set, by the name of their field and file.
func blockWeights(io *specs.LinuxBlockIO) []v1Setting {
	var weights []v1Setting
	add := func(field, file, device string, weight *uint16) {
		if weight != nil && *weight != 0 {
			weights = append(weights, v1Setting{field, file, fmt.Sprintf("%s%d", device, *weight)})
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

// v1Setting is a value for a file of a field.
type v1Setting struct{ field, file, value string }

// setWeights writes to the files of the scheduler that the kernel has: BFQ, or in old ones CFQ. The library knows only
// the older.
func (c *v1) setWeights(weights []v1Setting) error {
	dir, ok := c.paths[string(cgroup1.Blkio)]
	if !ok {
		return unsupported("linux.resources.blockIO", "the host has no blkio cgroup hierarchy")
	}
	prefix := "blkio."
	if _, err := os.Stat(filepath.Join(dir, "blkio.bfq.weight")); err == nil {
		prefix = "blkio.bfq."
	}
	for _, w := range weights {
		field := "linux.resources.blockIO." + w.field
		err := writeFile(filepath.Join(dir, prefix+w.file), w.value)
		if errors.Is(err, fs.ErrNotExist) {
			return unsupported(field, "the host's kernel has no "+prefix+w.file)
		}
		if err != nil {
			return fmt.Errorf("cannot set %s: %w", field, err)
		}
	}
	return nil
}
