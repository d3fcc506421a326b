package terminal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Foreground connects the runtime's own terminal with a container's.
type Foreground struct {
	parent, child int // the socket pair over which the master comes
	master        *os.File
	saved         *unix.Termios
	copied        chan struct{}
}

// NewForeground returns a terminal whose master's end comes to this process.
func NewForeground() (*Foreground, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot create a console socket: %w", err)
	}
	return &Foreground{parent: ends[0], child: ends[1], copied: make(chan struct{})}, nil
}

// Socket is the end that the child sends the master over.
func (f *Foreground) Socket() int { return f.child }

// Start receives the master and begins to copy.
func (f *Foreground) Start() error {
	_ = unix.Close(f.child)
	f.child = -1
	fd, err := receiveDescriptor(f.parent)
	if err != nil {
		return fmt.Errorf("cannot receive the container's terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that reading can be given up
		return fmt.Errorf("cannot use the container's terminal: %w", err)
	}
	clearLineEnds(fd)
	f.master = os.NewFile(uintptr(fd), "terminal")
	if saved, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		f.saved = saved
		raw := *saved
		makeRaw(&raw)
		if err := unix.IoctlSetTermios(0, unix.TCSETS, &raw); err != nil {
			return fmt.Errorf("cannot set the terminal to raw mode: %w", err)
		}
	}
	f.Resize()
	go func() { _, _ = io.Copy(f.master, os.Stdin) }() // ends with the process
	go func() {
		_, _ = io.Copy(os.Stdout, f.master) // EIO when the last slave is closed
		close(f.copied)
	}()
	return nil
}

// Resize gives the container's terminal the size of the runtime's.
func (f *Foreground) Resize() {
	if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		f.onMaster(func(fd int) { _ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
	}
}

// Size is the size of the runtime's terminal, for a process that may ask for its own at once; nil if there is none.
func Size() *specs.Box {
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return nil
	}
	return &specs.Box{Height: uint(size.Row), Width: uint(size.Col)}
}

func (f *Foreground) onMaster(act func(fd int)) {
	if conn, err := f.master.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { act(int(fd)) })
	}
}

// Finish copies what the process has written to its end, and restores the runtime's own terminal. Others who have the
// terminal open, such as a daemon that the process has started, are not waited for.
func (f *Foreground) Finish() {
	if f.master != nil {
		if err := f.master.SetReadDeadline(time.Now()); err == nil {
			<-f.copied
			f.drain()
		}
	}
	f.Close()
}

// drain copies what is there to be read now.
func (f *Foreground) drain() {
	f.onMaster(func(fd int) {
		buffer := make([]byte, 4096)
		for {
			n, err := unix.Read(fd, buffer)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n <= 0 || err != nil {
				return
			}
			if _, err := os.Stdout.Write(buffer[:n]); err != nil {
				return
			}
		}
	})
}

// Close restores the runtime's own terminal.
func (f *Foreground) Close() {
	if f.saved != nil {
		_ = unix.IoctlSetTermios(0, unix.TCSETS, f.saved)
		f.saved = nil
	}
	for _, fd := range []int{f.parent, f.child} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	f.parent, f.child = -1, -1
}

// clearLineEnds keeps the container's terminal from making \r\n of \n: the runtime's own does, if it is one, and a file or a
// pipe gets the lines as they were written.
func clearLineEnds(master int) {
	if settings, err := unix.IoctlGetTermios(master, unix.TCGETS); err == nil {
		settings.Oflag &^= unix.ONLCR
		_ = unix.IoctlSetTermios(master, unix.TCSETS, settings)
	}
}

// makeRaw changes what a terminal does to input only: its output has bare line ends.
func makeRaw(t *unix.Termios) {
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
}

func receiveDescriptor(socket int) (int, error) {
	data, control := make([]byte, 256), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return -1, err
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil && len(fds) > 0 {
			return fds[0], nil
		}
	}
	return -1, errors.New("there is none in the message")
}
