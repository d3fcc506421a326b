package cgroup

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/cgroups/v3"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/kernelfile"
)

// mountRoot is where every distribution mounts its cgroup file systems.
const mountRoot = "/sys/fs/cgroup"

// hierarchy is one mounted tree of cgroups.
type hierarchy struct {
	controllers []string // as in /proc/self/cgroup, "name=systemd" for a named one; nil for cgroup v2
	mount       string   // where it is mounted
	own         string   // the calling process's cgroup as a path below mount
}

// IsUnified tells whether the host has cgroup v2 alone. The answer is one cheap call, so that the v2 path never has to
// read the mount table, which may have thousands of lines on a busy host.
func IsUnified() (bool, error) {
	mode := cgroups.Mode()
	if mode == cgroups.Unavailable {
		return false, fmt.Errorf("there is no cgroup file system at %q", mountRoot)
	}
	return mode == cgroups.Unified, nil
}

// hierarchies lists the mounted hierarchies of the calling process.
func hierarchies() ([]hierarchy, error) {
	content, err := kernelfile.ReadOnce("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("cannot read the runtime's own cgroup: %w", err)
	}
	found := parseOwn(string(content))
	var mounts []*mountinfo.Info
	mounted := found[:0]
	for _, h := range found {
		var absent bool
		if h.mount, absent = conventionalMount(h); absent {
			continue
		}
		if h.mount == "" {
			if mounts == nil {
				if mounts, err = readMounts(); err != nil {
					return nil, err
				}
			}
			if !h.locate(mounts) {
				continue
			}
		}
		if h.controllers == nil { // first, as processes can be born there
			mounted = slices.Insert(mounted, 0, h)
			continue
		}
		mounted = append(mounted, h)
	}
	return mounted, nil
}

// parseOwn understands /proc/self/cgroup: lines of ID:CONTROLLERS:PATH.
func parseOwn(content string) []hierarchy {
	var found []hierarchy
	for line := range strings.Lines(content) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		// One of v1 that is on its way out has no controllers any more, as has v2, which is number 0.
		if len(fields) != 3 || fields[1] == "" && fields[0] != "0" {
			continue
		}
		h := hierarchy{own: fields[2]}
		if fields[1] != "" {
			h.controllers = strings.Split(fields[1], ",")
		}
		// Another program's named hierarchy is its own business; systemd's is expected to follow the others.
		if len(h.controllers) == 1 && strings.HasPrefix(h.controllers[0], "name=") && h.controllers[0] != "name=systemd" {
			continue
		}
		found = append(found, h)
	}
	return found
}

// conventionalMount returns the directory that distributions use for h, if it holds the runtime's own cgroup. That is so
// unless the runtime runs in a container that has no cgroup namespace. Where there is no such directory the hierarchy
// is taken as not mounted, without a look at the mount table.
func conventionalMount(h hierarchy) (mount string, absent bool) {
	name := "unified"
	if h.controllers != nil {
		name = strings.TrimPrefix(strings.Join(h.controllers, ","), "name=")
	}
	mount = filepath.Join(mountRoot, name)
	var stat unix.Stat_t
	if unix.Stat(filepath.Join(mount, h.own, "cgroup.procs"), &stat) == nil {
		return mount, false
	}
	return "", unix.Stat(mount, &stat) == unix.ENOENT
}

func readMounts() ([]*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("cannot find the cgroup mounts: %w", err)
	}
	return mounts, nil
}

// locate finds where h is mounted, and makes its own path relative to what is mounted there. A container without a
// cgroup namespace sees its path in full but only a part of the tree.
func (h *hierarchy) locate(mounts []*mountinfo.Info) bool {
	for _, mount := range mounts {
		if h.controllers == nil {
			if mount.FSType != "cgroup2" {
				continue
			}
		} else if mount.FSType != "cgroup" || !slices.Contains(strings.Split(mount.VFSOptions, ","), h.controllers[0]) {
			continue
		}
		h.mount = mount.Mountpoint
		if below, ok := strings.CutPrefix(h.own, mount.Root); ok && mount.Root != "/" {
			h.own = "/" + strings.TrimPrefix(below, "/")
		}
		return true
	}
	return false
}

// path returns the directory of a container's cgroup: absolute paths start at the top of the hierarchy, all others
// below the runtime's own cgroup. Cleaning it as an absolute path keeps ".." from leaving the hierarchy.
func (h *hierarchy) path(config Config) string {
	inner := config.Path
	if inner == "" {
		inner = config.ID
	}
	if filepath.IsAbs(inner) {
		return filepath.Join(h.mount, filepath.Clean(inner))
	}
	own := h.own
	if h.controllers == nil {
		// A v2 cgroup with processes can't hand controllers to those below it, and ours has at least this process.
		own = filepath.Dir(own)
	}
	return filepath.Join(h.mount, own, filepath.Clean("/"+inner))
}
