// Package unixsocket reaches unix sockets whose paths are longer than an address can be. It is apart from internal/sys as it
// brings Go's network along, whose set-up a start of a container should not wait for.
package unixsocket

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// MaxPath is what fits into sun_path of struct sockaddr_un beside the zero byte at its end.
const MaxPath = 107

// Address returns an address for the socket at path, which may be longer than an address can be. A long one leads
// through a descriptor of the socket's directory, and other processes may use it too until release is called.
func Address(path string) (address string, release func(), err error) {
	if len(path) <= MaxPath {
		return path, func() {}, nil
	}
	dir, name := filepath.Split(path)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	address = filepath.Join("/proc", strconv.Itoa(os.Getpid()), "fd", strconv.Itoa(fd), name)
	if len(address) > MaxPath {
		_ = unix.Close(fd)
		return "", nil, &os.PathError{Op: "bind", Path: path, Err: unix.ENAMETOOLONG}
	}
	return address, func() { _ = unix.Close(fd) }, nil
}

// Dial connects to the socket at path, however long that is.
func Dial(path string) (net.Conn, error) {
	address, release, err := Address(path)
	if err != nil {
		return nil, err
	}
	defer release()
	conn, err := net.Dial("unix", address)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			op.Addr = &net.UnixAddr{Name: path, Net: "unix"} // the sentence names the socket
		}
		return nil, err
	}
	return conn, nil
}
