package spec

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type deviceFlags struct {
	devices     []string
	cgroupRules []string
	ulimits     []string
	throttles   [4][]string
}

// throttles are the flags that limit one block device; the last two count operations, not bytes.
func throttles() [4]struct {
	flag string
	kind berthv1.ThrottleKind
} {
	return [4]struct {
		flag string
		kind berthv1.ThrottleKind
	}{
		{"device-read-bps", berthv1.ThrottleKind_THROTTLE_KIND_READ_BPS},
		{"device-write-bps", berthv1.ThrottleKind_THROTTLE_KIND_WRITE_BPS},
		{"device-read-iops", berthv1.ThrottleKind_THROTTLE_KIND_READ_IOPS},
		{"device-write-iops", berthv1.ThrottleKind_THROTTLE_KIND_WRITE_IOPS},
	}
}

func (f *deviceFlags) register(set *pflag.FlagSet) {
	set.StringArrayVar(&f.devices, "device", nil, "Device of the host: source[:target][:rwm]")
	set.StringArrayVar(&f.cgroupRules, "device-cgroup-rule", nil, "Rule of the devices cgroup, as 'c 42:* rmw'")
	set.StringArrayVar(&f.ulimits, "ulimit", nil, "Resource limit, as nofile=1024:2048")
	for i, throttle := range throttles() {
		set.StringArrayVar(&f.throttles[i], throttle.flag, nil, "Limit of a block device, as /dev/sda:1mb")
	}
}

func (f *deviceFlags) apply(spec *berthv1.ContainerSpec, _ *pflag.FlagSet) error {
	for _, text := range f.devices {
		device, err := parseDevice(text)
		if err != nil {
			return err
		}
		spec.Resources.Devices = append(spec.Resources.Devices, device)
	}
	for _, text := range f.ulimits {
		limit, err := parseUlimit(text)
		if err != nil {
			return err
		}
		spec.Resources.Ulimits = append(spec.Resources.Ulimits, limit)
	}
	for i, throttle := range throttles() {
		for _, text := range f.throttles[i] {
			path, value, _ := strings.Cut(text, ":")
			rate, err := units.RAMInBytes(value)
			if err != nil || rate < 0 || !filepath.IsAbs(path) {
				return invalid(throttle.flag, text, "want device:rate, as /dev/sda:1mb")
			}
			spec.Resources.BlkioThrottles = append(spec.Resources.BlkioThrottles,
				&berthv1.BlkioThrottle{Kind: throttle.kind, Path: path, Rate: uint64(rate)})
		}
	}
	spec.Resources.DeviceCgroupRules = f.cgroupRules
	return nil
}

// parseDevice reads source[:target][:permissions].
func parseDevice(text string) (*berthv1.Device, error) {
	parts := strings.Split(text, ":")
	device := &berthv1.Device{HostPath: parts[0], ContainerPath: parts[0]}
	switch {
	case len(parts) == 2 && isPermissions(parts[1]):
		device.Permissions = parts[1]
	case len(parts) == 2:
		device.ContainerPath = parts[1]
	case len(parts) == 3 && isPermissions(parts[2]):
		device.ContainerPath, device.Permissions = parts[1], parts[2]
	case len(parts) != 1:
		return nil, invalid("device", text, "want source[:target][:rwm]")
	}
	if !filepath.IsAbs(device.HostPath) || !filepath.IsAbs(device.ContainerPath) {
		return nil, invalid("device", text, "paths of devices must be absolute")
	}
	return device, nil
}

func isPermissions(text string) bool { return text != "" && strings.Trim(text, "rwm") == "" }

// parseUlimit reads name=soft[:hard].
func parseUlimit(text string) (*berthv1.Ulimit, error) {
	name, values, assigned := strings.Cut(text, "=")
	soft, hard, two := strings.Cut(values, ":")
	if !two {
		hard = soft
	}
	limit := &berthv1.Ulimit{Name: name}
	var err error
	if limit.Soft, err = parseLimit(soft); err == nil {
		limit.Hard, err = parseLimit(hard)
	}
	if err != nil || !assigned || name == "" {
		return nil, invalid("ulimit", text, "want name=soft[:hard], as nofile=1024:2048")
	}
	if limit.Hard >= 0 && (limit.Soft < 0 || limit.Soft > limit.Hard) {
		return nil, invalid("ulimit", text, "the soft limit is above the hard limit")
	}
	return limit, nil
}

func parseLimit(text string) (int64, error) {
	if text == "unlimited" {
		return -1, nil
	}
	return strconv.ParseInt(text, 10, 64)
}
