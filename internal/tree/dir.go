// Package tree removes and measures directory trees whose content comes from strangers: a container's files, a layer.
//
// Such a tree can be a million directories deep, longer by its path than PATH_MAX, full of symbolic links, immutable
// files and device nodes, and a process can still be changing it. So a tree is walked by descriptor, one component at
// a time, without following a link and without entering another mount, and the descriptors and the memory that a walk
// takes do not grow with the tree.
package tree

import (
	"bytes"
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// window is how many directories of one branch are open at a time.
const window = 32

// entry is one name in a directory.
type entry struct {
	name string
	kind uint8 // unix.DT_*
	next int64 // the position of the entry behind this one
}

// dir is an open directory that is being read.
type dir struct {
	fd     int
	buffer []byte // what getdents has returned and next has not
}

// direntBuffer is the size of one read of a directory.
const direntBuffer = 8 << 10

// openAt opens the directory name in parent. EXDEV: something is mounted on it. ENOTDIR or ELOOP: it is not a directory.
func openAt(parent int, name string) (*dir, error) {
	fd, err := sys.Openat2(parent, name, &unix.OpenHow{
		Flags:   unix.O_DIRECTORY | unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, err
	}
	return &dir{fd: fd}, nil
}

// next returns the next entry but "." and "..", or false at the end.
func (d *dir) next() (entry, bool, error) {
	for {
		if len(d.buffer) == 0 {
			buffer := make([]byte, direntBuffer)
			n, err := unix.Getdents(d.fd, buffer)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n == 0 {
				return entry{}, false, os.NewSyscallError("getdents64", err)
			}
			d.buffer = buffer[:n]
		}
		if e := d.decode(); e.name != "." && e.name != ".." {
			return e, true, nil
		}
	}
}

// decode takes one struct linux_dirent64 off the buffer: inode (8 bytes), position of the next (8), length (2), type (1), name.
func (d *dir) decode() entry {
	const lengthAt, kindAt, nameAt = 16, 18, 19
	length := binary.NativeEndian.Uint16(d.buffer[lengthAt:])
	name, _, _ := bytes.Cut(d.buffer[nameAt:length], []byte{0})
	e := entry{name: string(name), kind: d.buffer[kindAt], next: int64(binary.NativeEndian.Uint64(d.buffer[8:]))}
	d.buffer = d.buffer[length:]
	return e
}

func (d *dir) seek(position int64) error {
	d.buffer = nil
	_, err := unix.Seek(d.fd, position, unix.SEEK_SET)
	return os.NewSyscallError("lseek", err)
}

func (d *dir) close() { _ = unix.Close(d.fd) }
