// Package kernelfile reads and writes the small files of procfs, sysfs and cgroups, and such as are as small.
//
// Package os asks for each file whether it can be polled, which takes six calls in place of three, and for the first one
// sets up what polling takes. A start of a container opens dozens.
package kernelfile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Read returns what is in the file.
func Read(path string) ([]byte, error) { return read(path, false) }

// ReadOnce is Read for a file that the kernel writes in one piece, as it does with the values of cgroups and with
// /proc/PID/stat: a read that leaves room in the buffer has reached the end.
func ReadOnce(path string) ([]byte, error) { return read(path, true) }

func read(path string, once bool) ([]byte, error) {
	fd, err := Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	const typical = 4 << 10
	content := make([]byte, 0, typical)
	for {
		n, err := unix.Read(fd, content[len(content):cap(content)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return content, nil
		}
		content = content[:len(content)+n]
		if once && len(content) < cap(content) {
			return content, nil
		}
		if len(content) == cap(content) {
			content = append(content, make([]byte, len(content))...)[:len(content)]
		}
	}
}

// Write writes value in one write, as what the kernel takes for one request must be, without creating the file.
func Write(path, value string) error {
	fd, err := Open(path, unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		if _, err = unix.Write(fd, []byte(value)); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return &os.PathError{Op: "write \"" + value + "\" to", Path: path, Err: err}
	}
	return nil
}

// Open opens a file, as os.OpenFile does.
func Open(path string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, perm)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}
