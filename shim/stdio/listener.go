package stdio

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/unixsocket"
)

// A Listener listens on a socket.
type Listener struct {
	*net.UnixListener
	path string
}

// ListenUnix listens on a socket that only its owner can connect to, from its first instant on. Its path may be longer than
// an address.
func ListenUnix(path string) (_ *Listener, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot listen on %q: %w", path, err)
		}
	}()
	address, release, err := unixsocket.Address(path)
	if err != nil {
		return nil, err
	}
	defer release()
	_ = os.Remove(path) // left by a shim that was killed
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer func() { _ = file.Close() }()
	// A socket file takes its mode from the socket, less the umask.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return nil, os.NewSyscallError("fchmod", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: address}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	l, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	return &Listener{UnixListener: l.(*net.UnixListener), path: path}, nil
}

// Remove stops listening and removes the socket.
func (l *Listener) Remove() error {
	err := l.Close()
	_ = os.Remove(l.path)
	return err
}
