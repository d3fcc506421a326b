package rootfs

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// options are a mount's options, sorted by who acts on them.
type options struct {
	set, clear             uint64   // MOUNT_ATTR_ bits of the mount itself
	atime                  uint64   // MS_ flags of the access times that are asked for, and atimeGiven
	setAll, clearAll       uint64   // and of all mounts below it
	propagation            []uint64 // MS_SHARED and its like, MS_REC with it, in order
	bind, recursive        bool
	copyUp, remount        bool
	idmap, recursiveIDMap  bool
	version                bool     // files have a number that changes with them
	superFlags, superBlock []string // what the file system itself is told: flags of every file system, and its own
}

// change is what one option does to the attributes of a mount.
type change struct{ set, clear uint64 }

// attributes are the options that the kernel keeps for a mount. With an r in front they mean the mounts below as well.
func attributes(name string) (change, bool) {
	switch name {
	case "ro":
		return change{set: unix.MOUNT_ATTR_RDONLY}, true
	case "rw":
		return change{clear: unix.MOUNT_ATTR_RDONLY}, true
	case "nosuid":
		return change{set: unix.MOUNT_ATTR_NOSUID}, true
	case "suid":
		return change{clear: unix.MOUNT_ATTR_NOSUID}, true
	case "nodev":
		return change{set: unix.MOUNT_ATTR_NODEV}, true
	case "dev":
		return change{clear: unix.MOUNT_ATTR_NODEV}, true
	case "noexec":
		return change{set: unix.MOUNT_ATTR_NOEXEC}, true
	case "exec":
		return change{clear: unix.MOUNT_ATTR_NOEXEC}, true
	case "nodiratime": // this and what follows about access times is for the mounts below only: see atimeFlag
		return change{set: unix.MOUNT_ATTR_NODIRATIME}, true
	case "diratime":
		return change{clear: unix.MOUNT_ATTR_NODIRATIME}, true
	case "noatime":
		return change{set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME}, true
	case "strictatime":
		return change{set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME}, true
	case "relatime", "atime", "norelatime", "nostrictatime": // relatime is 0: what the kernel does if it is told nothing
		return change{clear: unix.MOUNT_ATTR__ATIME}, true
	case "nosymfollow":
		return change{set: unix.MOUNT_ATTR_NOSYMFOLLOW}, true
	case "symfollow":
		return change{clear: unix.MOUNT_ATTR_NOSYMFOLLOW}, true
	}
	return change{}, false
}

// propagation returns the MS_ flags of a propagation's name.
func propagation(name string) (uint64, bool) {
	kinds := map[string]uint64{"private": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "shared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE}
	if kind, ok := kinds[name]; ok {
		return kind, true
	}
	if kind, ok := kinds[strings.TrimPrefix(name, "r")]; ok {
		return kind | unix.MS_REC, true
	}
	return 0, false
}

// parseOptions sorts the options of a mount. What it doesn't know is the file system's.
func parseOptions(names []string) options {
	var o options
	for _, name := range names {
		if flag, set, ok := atimeFlag(name); ok {
			o.atime = o.atime&^flag | atimeGiven
			if set {
				o.atime |= flag
			}
			continue
		}
		if change, ok := attributes(name); ok {
			apply(&o.set, &o.clear, change)
			continue
		}
		if change, ok := attributes(strings.TrimPrefix(name, "r")); ok && name[0] == 'r' {
			apply(&o.setAll, &o.clearAll, change)
			continue
		}
		if flags, ok := propagation(name); ok {
			o.propagation = append(o.propagation, flags)
			continue
		}
		o.special(name)
	}
	apply(&o.set, &o.clear, o.atimeChange())
	return o
}

// atimeGiven tells in options.atime that there was an option about access times, whatever came of it.
const atimeGiven = 1 << 63

// atimeFlag returns the flag of mount(2) for an option about access times, and whether the option sets or clears it.
func atimeFlag(name string) (flag uint64, set, ok bool) {
	switch name {
	case "noatime", "atime":
		return unix.MS_NOATIME, name == "noatime", true
	case "nodiratime", "diratime":
		return unix.MS_NODIRATIME, name == "nodiratime", true
	case "relatime", "norelatime":
		return unix.MS_RELATIME, name == "relatime", true
	case "strictatime", "nostrictatime":
		return unix.MS_STRICTATIME, name == "strictatime", true
	}
	return 0, false, false
}

// atimeChange does with the flags what the kernel does in mount(2), by which other runtimes mount: as soon as one of them
// is set they replace all that a mount has about access times, and otherwise it keeps that.
func (o *options) atimeChange() change {
	if o.atime&^atimeGiven == 0 {
		return change{}
	}
	c := change{clear: unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME} // relatime is 0
	switch {
	case o.atime&unix.MS_STRICTATIME != 0:
		c.set = unix.MOUNT_ATTR_STRICTATIME
	case o.atime&unix.MS_NOATIME != 0:
		c.set = unix.MOUNT_ATTR_NOATIME
	}
	if o.atime&unix.MS_NODIRATIME != 0 {
		c.set |= unix.MOUNT_ATTR_NODIRATIME
		c.clear &^= unix.MOUNT_ATTR_NODIRATIME
	}
	return c
}

// apply adds a change behind earlier ones, which it overrides.
func apply(set, clear *uint64, c change) {
	*set = *set&^c.clear | c.set
	*clear = *clear&^(c.set&^c.clear) | c.clear
}

func (o *options) special(name string) {
	switch name {
	case "", "defaults", "loud", "silent":
	case "async", "nolazytime", "nomand":
		opposite := map[string]string{"async": "sync", "nolazytime": "lazytime", "nomand": "mand"}[name]
		o.superFlags = slices.DeleteFunc(o.superFlags, func(flag string) bool { return flag == opposite })
	case "iversion", "noiversion":
		o.version = name == "iversion"
	case "bind":
		o.bind = true
	case "rbind":
		o.bind, o.recursive = true, true
	case "tmpcopyup":
		o.copyUp = true
	case "idmap":
		o.idmap = true
	case "ridmap":
		o.idmap, o.recursiveIDMap = true, true
	case "sync", "dirsync", "lazytime", "mand":
		o.superFlags = append(o.superFlags, name)
	case "remount":
		o.remount = true
	default:
		o.superBlock = append(o.superBlock, name)
	}
}

// has tells whether the file system is given an option of its own.
func (o *options) has(key string) bool {
	return slices.ContainsFunc(o.superBlock, func(option string) bool { return strings.HasPrefix(option, key+"=") })
}
