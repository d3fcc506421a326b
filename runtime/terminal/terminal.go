// Package terminal makes a container's terminal: the child opens a pair in the container's own devpts, and sends the
// master's end over a socket to who will use it.
package terminal

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// Terminal is what a terminal is made with.
type Terminal struct {
	Socket int        // connected; the master's end is sent over it
	Size   *specs.Box // nil: the kernel's
}

// masterName goes with the descriptor, as runc's does: receivers name their file by it.
const masterName = "/dev/ptmx"

// Add adds the making of a terminal from an opened /dev/pts/ptmx and returns the descriptor of its slave.
func (t Terminal) Add(p *launch.Program, master launch.Arg) launch.Arg {
	// Anything may have its name, and would be asked for a descriptor.
	stat := launch.Pin(p, &unix.Statfs_t{})
	p.Call("check", "the terminal", unix.SYS_FSTATFS, master, stat)
	p.Expect("use", "the terminal", stat, launch.Masked{Mask: 1<<32 - 1, Value: unix.DEVPTS_SUPER_MAGIC, Errno: unix.ENOTTY}).
		Explain(func(unix.Errno) error {
			return fmt.Errorf("cannot use %q: it is not in a file system of type \"devpts\"", masterName)
		})
	p.Call("unlock", "the terminal", unix.SYS_IOCTL, master, launch.Int(unix.TIOCSPTLCK), launch.Pin(p, new(int32)))
	// By path the slave could be anything; the peer of the master can be nothing else.
	slave := p.Call("open", "the terminal", unix.SYS_IOCTL, master, launch.Int(unix.TIOCGPTPEER), launch.Int(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)).Result()
	if t.Size != nil {
		size := &unix.Winsize{Row: uint16(t.Size.Height), Col: uint16(t.Size.Width)}
		p.Call("set", "process.consoleSize", unix.SYS_IOCTL, slave, launch.Int(unix.TIOCSWINSZ), launch.Pin(p, size))
	}
	SendDescriptor(p, launch.Int(t.Socket), master, "the terminal to the console socket")
	p.Close(master)
	return slave
}

// SendDescriptor adds the sending of a descriptor of the child's over a socket.
func SendDescriptor(p *launch.Program, socket, fd launch.Arg, object string) {
	control := make([]byte, unix.CmsgSpace(4))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	header.Level, header.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
	header.SetLen(unix.CmsgLen(4))
	launch.PinSlice(p, control)
	p.Store(launch.PinSlice(p, control[unix.CmsgLen(0):]), fd)
	name := []byte(masterName)
	launch.PinSlice(p, name)
	part := &unix.Iovec{Base: &name[0]}
	part.SetLen(len(name))
	launch.Pin(p, part)
	message := &unix.Msghdr{Iov: part, Iovlen: 1, Control: &control[0]}
	message.SetControllen(len(control))
	p.Call("send", object, unix.SYS_SENDMSG, socket, launch.Pin(p, message), launch.Int(unix.MSG_NOSIGNAL))
}

// Connect connects to a console socket.
func Connect(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot connect to console socket %q: %w", path, err)
	}
	if err := ConnectSoon(fd, path); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("cannot connect to console socket %q: %w", path, err)
	}
	return fd, nil
}

// ConnectSoon connects a socket to the path of another one, and gives up on a program that listens there and does not accept.
func ConnectSoon(fd int, path string) error {
	const patience = 10 * time.Second
	limit := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return err
	}
	err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	if errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("it has not been accepted within %v", patience)
	}
	return err
}

// OpenPtmx adds the opening of the container's /dev/pts/ptmx by a process that has the container's root as its own.
func OpenPtmx(p *launch.Program) launch.Arg {
	const name = "/dev/pts/ptmx"
	how := &unix.OpenHow{
		Flags:   unix.O_RDWR | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	return p.Call("open", fmt.Sprintf("%q", name), unix.SYS_OPENAT2, launch.Cwd, p.String(name), launch.Pin(p, how), launch.Int(unsafe.Sizeof(*how))).Result()
}

// Send sends the master's end of a terminal over a console socket.
func Send(socket, master int) error {
	if err := unix.Sendmsg(socket, []byte(masterName), unix.UnixRights(master), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("cannot send the terminal to the console socket: %w", err)
	}
	return nil
}
