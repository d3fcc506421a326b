package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func addDevices(request Request, spec *specs.Spec) error {
	if request.Spec.GetSecurity().GetPrivileged() {
		devices, err := hostDevices()
		if err != nil {
			return err
		}
		spec.Linux.Devices = devices
		spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return nil
	}
	spec.Linux.Resources.Devices = defaultDeviceRules()
	for _, asked := range request.Spec.GetResources().GetDevices() {
		if err := addDevice(spec, asked); err != nil {
			return err
		}
	}
	for _, text := range request.Spec.GetResources().GetDeviceCgroupRules() {
		rule, err := parseDeviceRule(text)
		if err != nil {
			return err
		}
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, rule)
	}
	return nil
}

// defaultDeviceRules deny all but making any node, and using the harmless ones.
func defaultDeviceRules() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	for _, device := range []struct{ major, minor int64 }{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null, zero, full, random, urandom
		{5, 0}, {5, 1}, {5, 2}, // tty, console, ptmx
	} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &device.major, Minor: &device.minor, Access: "rwm"})
	}
	pts := int64(136)
	return append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &pts, Access: "rwm"})
}

func addDevice(spec *specs.Spec, asked *berthv1.Device) error {
	permissions := asked.GetPermissions()
	if permissions == "" {
		permissions = "rwm"
	}
	if strings.Trim(permissions, "rwm") != "" {
		return invalidResource("device %q: permissions %q are not made of r, w and m", asked.GetHostPath(), permissions)
	}
	target := asked.GetContainerPath()
	if target == "" {
		target = asked.GetHostPath()
	}
	paths := []string{asked.GetHostPath()}
	if info, err := os.Stat(asked.GetHostPath()); err == nil && info.IsDir() {
		paths = nil
		walk := func(name string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type()&fs.ModeDevice != 0 {
				paths = append(paths, name)
			}
			return err
		}
		if err := filepath.WalkDir(asked.GetHostPath(), walk); err != nil {
			return invalidResource("device %q: %w", asked.GetHostPath(), err)
		}
	}
	for _, host := range paths {
		device, err := hostDevice(host)
		if err != nil {
			return invalidResource("device %q: %w", asked.GetHostPath(), err)
		}
		device.Path = path.Clean(target + strings.TrimPrefix(host, asked.GetHostPath()))
		if !path.IsAbs(device.Path) {
			return invalidResource("device %q: the path in the container %q is not absolute", asked.GetHostPath(), target)
		}
		spec.Linux.Devices = append(spec.Linux.Devices, device)
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: device.Type, Major: &device.Major, Minor: &device.Minor, Access: permissions,
		})
	}
	return nil
}

func deviceNumbers(host string) (major, minor int64, kind string, err error) {
	var stat unix.Stat_t
	if err := unix.Stat(host, &stat); err != nil {
		return 0, 0, "", &os.PathError{Op: "stat", Path: host, Err: err}
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		kind = "b"
	case unix.S_IFCHR:
		kind = "c"
	default:
		return 0, 0, "", fmt.Errorf("%q is not a device", host)
	}
	return int64(unix.Major(stat.Rdev)), int64(unix.Minor(stat.Rdev)), kind, nil
}

func hostDevice(host string) (specs.LinuxDevice, error) {
	major, minor, kind, err := deviceNumbers(host)
	if err != nil {
		return specs.LinuxDevice{}, err
	}
	var stat unix.Stat_t
	if err := unix.Stat(host, &stat); err != nil {
		return specs.LinuxDevice{}, &os.PathError{Op: "stat", Path: host, Err: err}
	}
	mode := fs.FileMode(stat.Mode & 0o7777)
	return specs.LinuxDevice{Path: host, Type: kind, Major: major, Minor: minor, FileMode: &mode, UID: &stat.Uid, GID: &stat.Gid}, nil
}

// hostDevices are all devices of the host, for privileged containers. What belongs to the container's own /dev is left out.
func hostDevices() ([]specs.LinuxDevice, error) {
	own := []string{"/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/.udev", "/dev/console", "/dev/ptmx", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}
	var devices []specs.LinuxDevice
	err := filepath.WalkDir("/dev", func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // devices come and go
		}
		if err != nil {
			return err
		}
		if slices.Contains(own, name) {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if entry.Type()&fs.ModeDevice == 0 {
			return nil
		}
		device, err := hostDevice(name)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		devices = append(devices, device)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the devices of the host: %w", err)
	}
	return devices, nil
}

// parseDeviceRule reads "c 1:3 rwm", with * for any number.
func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	parts := regexp.MustCompile(`^([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$`).FindStringSubmatch(text)
	if parts == nil {
		return specs.LinuxDeviceCgroup{}, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid device_cgroup_rules: %q is not as \"c 1:3 rwm\"", text))
	}
	rule := specs.LinuxDeviceCgroup{Allow: true, Type: parts[1], Access: parts[4]}
	for i, target := range []**int64{&rule.Major, &rule.Minor} {
		if parts[2+i] == "*" {
			continue
		}
		number, err := strconv.ParseInt(parts[2+i], 10, 64)
		if err != nil {
			return specs.LinuxDeviceCgroup{}, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid device_cgroup_rules: %q: %w", text, err))
		}
		*target = &number
	}
	return rule, nil
}
