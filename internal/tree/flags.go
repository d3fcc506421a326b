package tree

import "golang.org/x/sys/unix"

// The inode flags that keep root from removing a file (linux/fs.h).
const (
	appendOnly = 0x20 // FS_APPEND_FL
	immutable  = 0x10 // FS_IMMUTABLE_FL
)

// unlock clears the flags of an entry, and of the directory it is in, that forbid removing it. It reports whether it
// cleared any.
func (r *removal) unlock(above *dir, parent int, name string) bool {
	cleared := false
	if above != nil {
		cleared = clearFlags(above.fd)
	}
	// O_PATH, because opening a device node can do anything.
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return cleared
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || (st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFDIR) {
		return cleared
	}
	readable, err := unix.Open(procPath(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return cleared
	}
	defer func() { _ = unix.Close(readable) }()
	return clearFlags(readable) || cleared
}

func clearFlags(fd int) bool {
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&(appendOnly|immutable) == 0 {
		return false
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^(appendOnly|immutable))) == nil
}
