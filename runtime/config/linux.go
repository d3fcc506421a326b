package config

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func checkLinux(linux *specs.Linux) error {
	return first(
		func() error { return checkNamespaces(linux.Namespaces) },
		func() error { return checkMappings("linux.uidMappings", linux.UIDMappings) },
		func() error { return checkMappings("linux.gidMappings", linux.GIDMappings) },
		func() error { return checkUserNamespace(linux) },
		func() error { return checkTimeOffsets(linux) },
		func() error { return checkPaths(linux) },
		func() error { return checkSysctls(linux) },
		func() error { return checkDevices(linux.Devices) },
		func() error { return checkResources(linux.Resources) },
		func() error { return checkPropagation(linux.RootfsPropagation) },
		func() error { return checkPersonality(linux.Personality) },
		func() error { return checkMemoryPolicy(linux.MemoryPolicy) },
		func() error { return checkNetDevices(linux) },
		func() error { return checkIntelRdt(linux.IntelRdt) },
	)
}

func checkPropagation(propagation string) error {
	return checkOneOf("linux.rootfsPropagation", propagation, "", "private", "rprivate", "slave", "rslave", "shared",
		"rshared", "unbindable", "runbindable")
}

func checkPersonality(personality *specs.LinuxPersonality) error {
	if personality == nil {
		return nil
	}
	if len(personality.Flags) > 0 {
		return invalid("linux.personality.flags", "the specification has no flags yet, so that %q can't be honoured", personality.Flags[0])
	}
	return checkOneOf("linux.personality.domain", personality.Domain, specs.PerLinux, specs.PerLinux32)
}

func checkMemoryPolicy(policy *specs.LinuxMemoryPolicy) error {
	if policy == nil {
		return nil
	}
	for i, flag := range policy.Flags {
		if err := checkOneOf(at("linux.memoryPolicy.flags", i), flag, specs.MpolFNumaBalancing, specs.MpolFRelativeNodes,
			specs.MpolFStaticNodes); err != nil {
			return err
		}
	}
	if err := checkNumbers("linux.memoryPolicy.nodes", policy.Nodes); err != nil {
		return err
	}
	return checkOneOf("linux.memoryPolicy.mode", policy.Mode, specs.MpolDefault, specs.MpolBind, specs.MpolInterleave,
		specs.MpolWeightedInterleave, specs.MpolPreferred, specs.MpolPreferredMany, specs.MpolLocal)
}

func checkIntelRdt(rdt *specs.LinuxIntelRdt) error {
	if rdt == nil {
		return nil
	}
	if id := rdt.ClosID; id != "/" && strings.ContainsAny(id, "/\n") || slices.Contains([]string{".", "..", "info", "mon_groups", "mon_data"}, id) {
		return invalid("linux.intelRdt.closID", "%q can't be the name of a class", id)
	}
	if rdt.MemBwSchema != "" && !strings.HasPrefix(rdt.MemBwSchema, "MB:") {
		return invalid("linux.intelRdt.memBwSchema", "%q does not start with MB:", rdt.MemBwSchema)
	}
	lines := map[string]string{"linux.intelRdt.l3CacheSchema": rdt.L3CacheSchema, "linux.intelRdt.memBwSchema": rdt.MemBwSchema}
	for i, line := range rdt.Schemata {
		lines[at("linux.intelRdt.schemata", i)] = line
	}
	for field, line := range lines {
		if strings.Contains(line, "\n") {
			return invalid(field, "%q is more than one line", line)
		}
	}
	return nil
}

func checkPaths(linux *specs.Linux) error {
	private := hasNamespace(linux, specs.MountNamespace)
	for _, list := range []struct {
		field string
		paths []string
	}{{"linux.maskedPaths", linux.MaskedPaths}, {"linux.readonlyPaths", linux.ReadonlyPaths}} {
		if len(list.paths) > 0 && !private {
			return invalid(list.field, "it needs a mount namespace, which linux.namespaces does not have")
		}
		for i, name := range list.paths {
			if !path.IsAbs(name) {
				return invalid(at(list.field, i), "%q is not an absolute path", name)
			}
		}
	}
	return nil
}

func checkDevices(devices []specs.LinuxDevice) error {
	for i, device := range devices {
		field := at("linux.devices", i)
		if !path.IsAbs(device.Path) {
			return invalid(field+".path", "%q is not an absolute path", device.Path)
		}
		if err := checkOneOf(field+".type", device.Type, "c", "b", "u", "p"); err != nil {
			return err
		}
		if device.Type != "p" && (device.Major < 0 || device.Minor < 0) {
			return invalid(field, "%d:%d is no device", device.Major, device.Minor)
		}
	}
	return nil
}

func checkResources(resources *specs.LinuxResources) error {
	if resources == nil {
		return nil
	}
	for i, page := range resources.HugepageLimits {
		size := strings.TrimRight(page.Pagesize, "KMGB")
		unit := page.Pagesize[len(size):]
		if _, err := strconv.ParseUint(size, 10, 32); err != nil || !slices.Contains([]string{"KB", "MB", "GB"}, unit) {
			return invalid(at("linux.resources.hugepageLimits", i)+".pageSize", "%q is not a size such as 64KB, 2MB or 1GB", page.Pagesize)
		}
	}
	for device, limits := range resources.Rdma {
		if limits.HcaHandles == nil && limits.HcaObjects == nil {
			return invalid("linux.resources.rdma."+device, "it must have hcaHandles or hcaObjects")
		}
	}
	if cpu := resources.CPU; cpu != nil {
		return first(
			func() error { return checkNumbers("linux.resources.cpu.cpus", withoutStrides(cpu.Cpus)) },
			func() error { return checkNumbers("linux.resources.cpu.mems", withoutStrides(cpu.Mems)) },
		)
	}
	return nil
}

// withoutStrides takes the strides out of a list as the kernel reads it: 0-7:2/4 is the first two of each four from 0 to 7.
func withoutStrides(list string) string {
	parts := strings.Split(list, ",")
	for i, part := range parts {
		before, stride, has := strings.Cut(part, ":")
		used, group, ok := strings.Cut(stride, "/")
		u, usedErr := strconv.ParseUint(used, 10, 31)
		g, groupErr := strconv.ParseUint(group, 10, 31)
		if has && ok && usedErr == nil && groupErr == nil && 0 < u && u <= g && strings.Contains(before, "-") {
			parts[i] = before
		}
	}
	return strings.Join(parts, ",")
}

// checkNumbers checks a list of numbers and ranges such as "0-3,7", which may be empty.
func checkNumbers(field, list string) error {
	if list == "" {
		return nil
	}
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		from, err := strconv.ParseUint(strings.TrimSpace(low), 10, 31)
		if err == nil {
			var to uint64
			to, err = strconv.ParseUint(strings.TrimSpace(high), 10, 31)
			if err == nil && to < from {
				return invalid(field, "%q runs backwards", part)
			}
		}
		if err != nil {
			return invalid(field, "%q is not a list of numbers and ranges such as 0-3,7", list)
		}
	}
	return nil
}
