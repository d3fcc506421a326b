package stdio

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/unixsocket"
)

// A ConsoleSocket receives the master of the pty that the runtime makes for a process with a terminal.
type ConsoleSocket struct {
	listener *Listener
	address  string
	release  func()
}

// ListenConsole listens on a socket for the runtime's --console-socket.
func ListenConsole(path string) (*ConsoleSocket, error) {
	l, err := ListenUnix(path)
	if err != nil {
		return nil, err
	}
	address, release, err := unixsocket.Address(path)
	if err != nil {
		return nil, errors.Join(err, l.Remove())
	}
	return &ConsoleSocket{listener: l, address: address, release: release}, nil
}

// Path is the argument of --console-socket.
func (s *ConsoleSocket) Path() string { return s.address }

// handover bounds the wait for a runtime that said that it has succeeded, and so has sent the master already.
const handover = 5 * time.Second

// Receive returns the master. Call it after the runtime has ended.
func (s *ConsoleSocket) Receive() (*os.File, error) {
	_ = s.listener.SetDeadline(time.Now().Add(handover))
	conn, err := s.listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("cannot receive the terminal from the runtime: %w", err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(handover))
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, fmt.Errorf("cannot receive the terminal from the runtime: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, fmt.Errorf("cannot receive the terminal from the runtime: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil || len(fds) == 0 {
			continue
		}
		unix.CloseOnExec(fds[0])
		return pollable(fds[0], "ptmx"), nil
	}
	return nil, errors.New("cannot receive the terminal from the runtime: it sent no descriptor")
}

// Close removes the socket.
func (s *ConsoleSocket) Close() {
	_ = s.listener.Remove()
	s.release()
}
