package rootfs

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// provided is what a bind mount binds, where an earlier mount of the container brings it along.
type provided struct {
	rel   string // the path in the container's root
	users int    // descriptor of the user namespace that it is mapped by, or -1
}

// findProvided finds out which sources are in the container's own root, below an earlier mount of it. They are not there
// before that mount is made, and are opened at their turn: in the root, as the root of a new user namespace may not be
// let in to where the root is.
func (b *Builder) findProvided() {
	mounts := b.config.Spec.Mounts
	for i, m := range mounts {
		rel, inside := b.inRoot(m)
		if !inside || !isBound(m, parseOptions(m.Options)) {
			continue
		}
		for _, earlier := range mounts[:i] {
			if at := relative(earlier.Destination); at != "." && (rel == at || strings.HasPrefix(rel, at+"/")) {
				b.provided[i] = provided{rel: rel, users: -1}
			}
		}
	}
}

// inRoot returns the path in the container's root that the source of a bind mount has, if it is there.
func (b *Builder) inRoot(m specs.Mount) (rel string, inside bool) {
	return strings.CutPrefix(filepath.Clean(b.source(m)), strings.TrimSuffix(path.Clean(b.config.Root), "/")+"/")
}

// openProvided is openSource for what an earlier mount brings along.
func (b *Builder) openProvided(i int, m specs.Mount, o options, from provided) {
	p, verb := b.program, "open"
	quoted := fmt.Sprintf("%q to mount it at %q", m.Source, m.Destination)
	at := b.openAt(verb, m.Source, from.rel, unix.O_PATH).Result()
	flags, attrFlags := unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|emptyPath, emptyPath
	if o.recursive {
		flags |= unix.AT_RECURSIVE
	}
	b.sources[i] = p.Call(verb, quoted, unix.SYS_OPEN_TREE, at, b.empty, launch.Int(flags)).Result()
	p.Close(at)
	if from.users < 0 {
		return
	}
	if o.recursiveIDMap {
		attrFlags |= unix.AT_RECURSIVE
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(from.users)}
	p.Call("map the ids of", fmt.Sprintf("%q (can its file system do that?)", m.Source), unix.SYS_MOUNT_SETATTR, b.sources[i], b.empty, launch.Int(attrFlags), launch.Pin(p, attr), launch.Int(unsafe.Sizeof(*attr)))
}

// hostSource is where on the host the source of a bind mount is, also of one that an earlier mount brings along.
func (b *Builder) hostSource(m specs.Mount) string {
	if rel, inside := b.inRoot(m); inside {
		if cover, rest := b.coverOf(rel); cover != nil && cover.source != "" {
			return filepath.Join(cover.source, rest)
		}
	}
	return b.source(m)
}
