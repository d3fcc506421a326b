package rootfs

import (
	"fmt"
	"path"
	"sort"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

const unified = "" // the controller's name under which cgroup v2 stands in CgroupPaths

// hierarchyOfAll is where the host has its cgroups.
const hierarchyOfAll = "/sys/fs/cgroup"

// cgroupMount adds the container's view of its cgroup: one file system on cgroup v2, or a directory with one for each
// hierarchy on v1. In a cgroup namespace the kernel shows the part below the container's cgroup by itself. Without one
// that part of the host's tree is bound on v1, and all of it on v2, as /proc/self/cgroup has its path from there on.
func (b *Builder) cgroupMount(m specs.Mount, o options) {
	o.superBlock, o.superFlags = nil, nil
	o.set |= o.setAll
	if _, v2 := b.config.CgroupPaths[unified]; len(b.config.CgroupPaths) == 0 || v2 && len(b.config.CgroupPaths) == 1 {
		b.cgroupHierarchy(m, o, hierarchy{kind: "cgroup2", hostPath: hierarchyOfAll})
		return
	}
	readOnly := o.set & unix.MOUNT_ATTR_RDONLY
	o.set &^= readOnly
	top := b.newMount(specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: m.Destination}, options{set: o.set, superBlock: []string{"mode=755"}}, launch.Int(0))
	p, all := b.program, hierarchies(b.config.CgroupPaths)
	for _, h := range all {
		p.Call("create directory", fmt.Sprintf("%q", path.Join(m.Destination, h.name)), unix.SYS_MKDIRAT, top, p.String(h.name), launch.Int(0o755))
		for _, alias := range h.aliases {
			p.Call("create link", fmt.Sprintf("%q", path.Join(m.Destination, alias)), unix.SYS_SYMLINKAT, p.String(h.name), top, p.String(alias))
		}
	}
	b.setAttributes(top, m.Destination, attributeChange{set: readOnly})
	b.attach(m, top, b.target(m.Destination, true))
	p.Close(top)
	o.set |= readOnly
	for _, h := range all {
		at := m
		at.Destination = path.Join(m.Destination, h.name)
		b.cgroupHierarchy(at, o, h)
	}
}

// hierarchy is one cgroup file system.
type hierarchy struct {
	kind, name string
	options    []string
	aliases    []string // controllers of a hierarchy that is named after several
	hostPath   string
}

// hierarchies groups the controllers by the directory of the host that their paths lie in.
func hierarchies(paths map[string]string) []hierarchy {
	var all []hierarchy
	byPath := map[string]int{}
	controllers := make([]string, 0, len(paths))
	for controller := range paths {
		controllers = append(controllers, controller)
	}
	sort.Strings(controllers)
	for _, controller := range controllers {
		if controller == unified {
			continue
		}
		dir := paths[controller]
		if i, known := byPath[dir]; known {
			all[i].name += "," + controller
			all[i].aliases = append(all[i].aliases, controller)
			all[i].options = append(all[i].options, controller)
			continue
		}
		option := controller
		h := hierarchy{kind: "cgroup", name: controller, hostPath: dir, aliases: []string{controller}}
		if name, named := cutNamed(controller); named {
			h.name, h.aliases = name, nil
			option = "name=" + name
		}
		h.options = []string{option}
		byPath[dir] = len(all)
		all = append(all, h)
	}
	for i := range all {
		if len(all[i].aliases) == 1 {
			all[i].aliases = nil
		}
	}
	return all
}

func cutNamed(controller string) (string, bool) {
	const prefix = "name="
	if len(controller) > len(prefix) && controller[:len(prefix)] == prefix {
		return controller[len(prefix):], true
	}
	return controller, false
}

// cgroupHierarchy adds one of them.
func (b *Builder) cgroupHierarchy(m specs.Mount, o options, h hierarchy) {
	p := b.program
	var mount launch.Arg
	if b.config.CgroupNamespace {
		o.superBlock = h.options
		mount = b.newMount(specs.Mount{Type: h.kind, Source: "cgroup", Destination: m.Destination}, o, launch.Int(0))
	} else {
		whole, flags := h.hostPath == hierarchyOfAll, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC
		if whole {
			flags |= unix.AT_RECURSIVE
		}
		mount = p.Call("open", fmt.Sprintf("%q to mount it at %q", h.hostPath, m.Destination), unix.SYS_OPEN_TREE,
			launch.Cwd, p.String(h.hostPath), launch.Int(flags)).Result()
		b.setAttributes(mount, m.Destination, attributeChange{set: o.set, clear: o.clear, recursive: whole})
	}
	b.attach(m, mount, b.target(m.Destination, true))
	p.Close(mount)
}
