package main

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/berthd/berth/internal/version"
	"github.com/berthd/berth/runtime/capability"
	"github.com/berthd/berth/runtime/seccomp"
)

func (g *globals) features(args []string) (int, error) {
	flags := newFlags("features", "")
	rest, err := parse(flags, args)
	if err != nil {
		return 1, err
	}
	if err := checkArguments(flags, len(rest), 0, 0); err != nil {
		return 1, err
	}
	return 0, printJSON(supported(), "    ")
}

// supported is what this build can do, on a host that can do it too.
func supported() features.Features {
	yes := true
	return features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  mountOptions(),
		Linux: &features.Linux{
			Namespaces: []string{
				string(specs.CgroupNamespace), string(specs.IPCNamespace), string(specs.MountNamespace), string(specs.NetworkNamespace),
				string(specs.PIDNamespace), string(specs.TimeNamespace), string(specs.UserNamespace), string(specs.UTSNamespace),
			},
			Capabilities:    capability.Names(),
			Cgroup:          &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &yes},
			Seccomp:         seccomp.Features(),
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy:    memoryPolicy(),
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
		Annotations: map[string]string{
			"io.github.berthd.berth.version": version.Release,
			"io.github.berthd.berth.commit":  version.Commit(),
			// Callers of checkpoint look for this name, as no field of the document says it.
			"org.opencontainers.runc.checkpoint.enabled": "true",
		},
		PotentiallyUnsafeConfigAnnotations: []string{"org.criu.config", "org.systemd.property."},
	}
}

func memoryPolicy() *features.MemoryPolicy {
	return &features.MemoryPolicy{
		Modes: []string{
			string(specs.MpolBind), string(specs.MpolDefault), string(specs.MpolInterleave), string(specs.MpolLocal),
			string(specs.MpolPreferred), string(specs.MpolPreferredMany), string(specs.MpolWeightedInterleave),
		},
		Flags: []string{string(specs.MpolFNumaBalancing), string(specs.MpolFRelativeNodes), string(specs.MpolFStaticNodes)},
	}
}

// mountOptions lists the options that mean the same on every file system, sorted.
func mountOptions() []string {
	names := []string{
		"async", "bind", "defaults", "dirsync", "iversion", "lazytime", "loud", "mand", "noiversion", "nolazytime", "nomand",
		"idmap", "rbind", "remount", "ridmap", "silent", "sync", "tmpcopyup",
	}
	for _, attribute := range []string{
		"atime", "dev", "diratime", "exec", "noatime", "nodev", "nodiratime", "noexec", "norelatime", "nostrictatime", "nosuid",
		"nosymfollow", "relatime", "ro", "rw", "strictatime", "suid", "symfollow", "private", "shared", "slave", "unbindable",
	} {
		names = append(names, attribute, "r"+attribute)
	}
	slices.Sort(names)
	return names
}
