// Package systemd asks systemd, over the D-Bus socket that it has for its own tools, to make the scopes that containers
// live in. That takes a dozen kinds of messages, which are written and read here: a library for all of D-Bus would
// cost every start of the runtime more than the conversation.
package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds a whole conversation.
const patience = 30 * time.Second

// Manager is a connection to a service manager.
type Manager struct {
	conn   connection
	serial uint32
}

// Property is one of a unit. Its value is a string, bool, int32, uint32, int64, uint64, []uint32, []byte, []string or
// []DeviceAllow.
type Property struct {
	Name  string
	Value any
}

// DeviceAllow lets a unit's processes use a device.
type DeviceAllow struct{ Device, Access string }

// Error is systemd's refusal.
type Error struct{ Name, Text string }

func (e Error) Error() string { return e.Text }

// Names of errors.
const (
	noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"
	unitExists = "org.freedesktop.systemd1.UnitExists"
)

// socket is where the manager listens: that of the system for root, and of the user's session for anybody else. Who is
// root of a user namespace is so to the system's manager only if that one lives there too.
func socket() string {
	const system = "/run/systemd/private"
	uid := os.Geteuid()
	if uid == 0 {
		if unix.Access(system, unix.W_OK) == nil {
			return system
		}
		if uid = rootOutside(); uid == 0 {
			return system
		}
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = "/run/user/" + strconv.Itoa(uid)
	}
	return filepath.Join(dir, "systemd", "private")
}

// rootOutside is who the root of this process's user namespace is in the one around it.
func rootOutside() int {
	content, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == "0" {
			uid, _ := strconv.Atoi(fields[1])
			return uid
		}
	}
	return 0
}

// Available tells whether a manager listens on this host.
func Available() bool {
	var stat unix.Stat_t
	return unix.Stat(socket(), &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// Connect opens a connection and introduces this process.
func Connect() (*Manager, error) {
	conn, err := connect(socket())
	if err != nil {
		return nil, fmt.Errorf("cannot connect to systemd: %w", err)
	}
	m := &Manager{conn: conn}
	if err := m.authenticate(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot connect to systemd: %w", err), m.Close())
	}
	return m, nil
}

// Close closes the connection.
func (m *Manager) Close() error { return unix.Close(m.conn.fd) }

// connection is a socket that gives up at the deadline, however much comes before it: the manager tells of other units' jobs
// too. Package net would do, if importing it came for nothing.
type connection struct {
	fd       int
	deadline time.Time
}

func connect(path string) (connection, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return connection{}, err
	}
	limit := unix.NsecToTimeval(int64(patience))
	for _, set := range []func() error{
		func() error { return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit) },
		func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) },
	} {
		if err := set(); err != nil {
			_ = unix.Close(fd)
			return connection{}, err
		}
	}
	return connection{fd, time.Now().Add(patience)}, nil
}

// Read implements io.Reader.
func (c connection) Read(b []byte) (int, error) {
	for {
		ready := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		left := max(time.Until(c.deadline), 0)
		if n, err := unix.Poll(ready, int(left.Milliseconds())); n == 0 && err == nil {
			return 0, fmt.Errorf("it has not answered within %v", patience)
		}
		n, err := unix.Read(c.fd, b)
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		case err == nil && n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return max(n, 0), err
		}
	}
}

// Write implements io.Writer.
func (c connection) Write(b []byte) (int, error) {
	for written := 0; ; {
		n, err := unix.Write(c.fd, b[written:])
		written += max(n, 0)
		if err != nil && !errors.Is(err, unix.EINTR) || written == len(b) {
			return written, err
		}
	}
}

// authenticate lets systemd ask the kernel who we are: a number of ours may mean somebody else in its user namespace.
// BEGIN goes along at once: if it came together with the first message, systemd would leave that one in its buffer
// until something else arrives.
func (m *Manager) authenticate() error {
	if _, err := io.WriteString(m.conn, "\x00AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"); err != nil {
		return err
	}
	for _, want := range []string{"DATA", "OK "} {
		line, err := m.line()
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, want) {
			return fmt.Errorf("it says %q", strings.TrimSpace(line))
		}
	}
	return nil
}

// line reads one byte by byte, as messages follow.
func (m *Manager) line() (string, error) {
	var line []byte
	for !strings.HasSuffix(string(line), "\r\n") {
		var b [1]byte
		if _, err := io.ReadFull(m.conn, b[:]); err != nil {
			return "", err
		}
		if line = append(line, b[0]); len(line) > 512 {
			return "", errMalformed
		}
	}
	return string(line), nil
}

// do calls a method and returns its reply. Signals that come before go to heard, which may be nil.
func (m *Manager) do(c call, heard func(message)) (message, error) {
	m.serial++
	if _, err := m.conn.Write(c.encode(m.serial)); err != nil {
		return message{}, err
	}
	for {
		reply, err := m.receive()
		switch {
		case err != nil:
			return message{}, err
		case reply.kind == signal && heard != nil:
			heard(reply)
		case reply.replyTo != m.serial:
		case reply.kind == errorReply:
			refusal := Error{Name: reply.errorName, Text: reply.errorName}
			if strings.HasPrefix(reply.types, "s") {
				refusal.Text = reply.body.string()
			}
			return message{}, refusal
		case reply.kind == methodReturn:
			return reply, nil
		}
	}
}

func (m *Manager) receive() (message, error) {
	var start [16]byte
	if _, err := io.ReadFull(m.conn, start[:]); err != nil {
		return message{}, err
	}
	body, fields := binary.LittleEndian.Uint32(start[4:]), binary.LittleEndian.Uint32(start[12:])
	if start[0] != 'l' || body > maxMessage || fields > maxMessage {
		return message{}, errMalformed
	}
	padded := (fields + 7) &^ 7
	rest := make([]byte, padded+body)
	if _, err := io.ReadFull(m.conn, rest); err != nil {
		return message{}, err
	}
	return decode(start[1], rest[:fields], rest[padded:])
}
