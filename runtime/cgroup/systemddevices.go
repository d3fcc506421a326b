package cgroup

import (
	"fmt"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/runtime/systemd"
)

// deviceProperties are the device rules in systemd's words, for cgroup v1: there systemd writes its own over ours when
// it is reloaded. What it has no words for is left to our rules alone.
func deviceProperties(rules []specs.LinuxDeviceCgroup) ([]systemd.Property, error) {
	state, err := parseDevices(rules)
	if err != nil {
		return nil, err
	}
	state.addDefaults()
	properties := func(policy string, allowed []systemd.DeviceAllow) []systemd.Property {
		return []systemd.Property{
			{Name: "DevicePolicy", Value: policy},
			{Name: "DeviceAllow", Value: []systemd.DeviceAllow{}}, // an empty list takes back what was there
			{Name: "DeviceAllow", Value: allowed},
		}
	}
	if state.allow {
		return properties("auto", nil)[:2], nil
	}
	var allowed []systemd.DeviceAllow
	for _, d := range state.sorted() {
		name, ok := deviceName(d)
		if !ok {
			return properties("auto", nil)[:2], nil
		}
		allowed = append(allowed, systemd.DeviceAllow{Device: name, Access: state.exceptions[d].String()})
	}
	return properties("strict", allowed), nil
}

// deviceName is what systemd calls a device, or all with one major number, or all of a type.
func deviceName(d device) (string, bool) {
	kind := "char"
	if d.kind == 'b' {
		kind = "block"
	}
	switch {
	case d.major == anyNumber && d.minor == anyNumber:
		return kind + "-*", true
	case d.major == anyNumber:
		return "", false
	case d.minor == anyNumber:
		return kind + "-" + strconv.FormatInt(d.major, 10), true
	default:
		return fmt.Sprintf("/dev/%s/%d:%d", kind, d.major, d.minor), true
	}
}
