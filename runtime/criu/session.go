// Package criu asks CRIU, the program that turns processes into files and back, over its RPC. The program is started
// with one end of a socket, and may ask back before it answers:
//
//	runtime                             criu swrk 3
//	───────                             ───────────
//	DUMP or RESTORE, options ─────────►
//	          ◄───────────────────────── NOTIFY, "post-restore", pid
//	NOTIFY, done ─────────────────────►
//	          ◄───────────────────────── DUMP or RESTORE, success
//
// The messages are protocol buffers of two kinds of fields, which are written by hand here: criu's generated code, and
// even the wire format of the library behind it, cost time in every start of the runtime, and few are about criu.
package criu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Kind is the type of a request, and of its answer.
type Kind uint64

// The requests.
const (
	Dump         Kind = 1
	Restore      Kind = 2
	PreDump      Kind = 4
	notify       Kind = 6
	featureCheck Kind = 9
)

// FirstFile is the number that the first of a session's files has in criu.
const FirstFile = 4

// Session is a criu that waits for a request.
type Session struct {
	Pid    int
	socket int
	cmd    *exec.Cmd
}

// Notification is a question of criu's: it has come to a point, and goes on when it is answered.
type Notification struct {
	Point string
	Pid   int // of the container's first process, or 0
	FD    int // what came with it, or -1; closed when it is answered
}

// Start starts the program with the standard descriptors given, none meaning /dev/null, and with the files.
func Start(program string, stdio *[3]*os.File, files []*os.File) (*Session, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot create a socket for criu: %w", err)
	}
	theirs := os.NewFile(uintptr(ends[1]), "criu")
	defer func() { _ = theirs.Close() }()
	cmd := exec.Command(program, "swrk", "3")
	if stdio != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio[0], stdio[1], stdio[2]
	}
	cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	if err := cmd.Start(); err != nil {
		_ = unix.Close(ends[0])
		return nil, fmt.Errorf("cannot start criu: %w", err)
	}
	return &Session{Pid: cmd.Process.Pid, socket: ends[0], cmd: cmd}, nil
}

// Close ends the session without asking anything.
func (s *Session) Close() {
	_ = unix.Close(s.socket)
	_ = s.cmd.Wait()
}

// Ask makes criu dump or restore, answers what it asks meanwhile, and ends the session.
func (s *Session) Ask(kind Kind, options Options, answer func(Notification) error) error {
	var request message
	request.number(1, uint64(kind))
	request.text(2, string(options.content))
	_, err := s.converse(request, answer)
	_ = unix.Close(s.socket)
	ended := s.cmd.Wait()
	// After a pre-dump it waits for the dump, and takes the end of the session for a failure.
	if err == nil && ended != nil && kind != PreDump {
		return fmt.Errorf("criu failed: %w", ended)
	}
	return err
}

// Feature is something that not every criu and kernel can do.
type Feature Field

// The features.
const (
	MemoryTracking Feature = 1
	LazyMemory     Feature = 2
)

func (f Feature) String() string {
	if f == MemoryTracking {
		return "the tracking of memory"
	}
	return "lazy pages"
}

// Require returns an error unless criu and the kernel have the feature.
func Require(program string, feature Feature) error {
	s, err := Start(program, nil, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	var wanted, request message
	wanted.truth(Field(feature), true)
	request.number(1, uint64(featureCheck))
	request.text(5, string(wanted))
	got, err := s.converse(request, func(Notification) error { return nil })
	if err != nil {
		return err
	}
	has := false
	err = read(got.features, func(field Field, number uint64, _ []byte) error {
		has = has || field == Field(feature) && number != 0
		return nil
	})
	if err == nil && !has {
		err = fmt.Errorf("criu or the kernel lacks %s", feature)
	}
	return err
}

// converse sends a request and returns its answer.
func (s *Session) converse(request message, answer func(Notification) error) (response, error) {
	for {
		if err := s.send(request); err != nil {
			return response{}, err
		}
		got, err := s.receive()
		if err != nil {
			return response{}, err
		}
		if !got.success {
			return response{}, got.failure()
		}
		if got.kind != notify {
			return got, nil
		}
		err = answer(got.notification)
		if got.notification.FD >= 0 {
			_ = unix.Close(got.notification.FD)
		}
		if err != nil {
			return response{}, err
		}
		request = nil
		request.number(1, uint64(notify))
		request.truth(3, true)
	}
}

func (s *Session) send(m message) error {
	if err := unix.Sendto(s.socket, m, unix.MSG_NOSIGNAL, nil); err != nil {
		return fmt.Errorf("cannot ask criu: %w", err)
	}
	return nil
}

// response is what criu says.
type response struct {
	kind         Kind
	success      bool
	errno        unix.Errno
	reason       string
	features     []byte
	notification Notification
}

// ErrFailed is what all failures are that criu reports. Its log tells more: the reason in an answer, if there is one, is
// the first line of trouble, which need not be the one that mattered.
var ErrFailed = errors.New("criu failed")

func (r response) failure() error {
	switch {
	case r.reason != "":
		return fmt.Errorf("%w: %s", ErrFailed, complaint(r.reason))
	case r.errno != 0:
		return fmt.Errorf("%w: %w", ErrFailed, r.errno)
	}
	return ErrFailed
}

func (s *Session) receive() (response, error) {
	const largest = 64 << 10
	buffer, control := make([]byte, largest), make([]byte, unix.CmsgSpace(4))
	for {
		n, controls, _, _, err := unix.Recvmsg(s.socket, buffer, control, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return response{}, fmt.Errorf("cannot hear from criu: %w", err)
		case n == 0:
			return response{}, errors.New("criu ended without an answer")
		default:
			r, err := parse(buffer[:n])
			r.notification.FD = descriptor(control[:controls])
			return r, err
		}
	}
}

func parse(content []byte) (response, error) {
	var r response
	err := read(content, func(field Field, number uint64, content []byte) error {
		switch field {
		case 1:
			r.kind = Kind(number)
		case 2:
			r.success = number != 0
		case 5:
			return r.notification.parse(content)
		case 7:
			r.errno = unix.Errno(number)
		case 8:
			r.features = content
		case 9:
			r.reason = string(content)
		}
		return nil
	})
	return r, err
}

func (n *Notification) parse(content []byte) error {
	return read(content, func(field Field, number uint64, content []byte) error {
		switch field {
		case 1:
			n.Point = string(content)
		case 2:
			n.Pid = int(number)
		}
		return nil
	})
}

func descriptor(control []byte) int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return -1
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil && len(fds) > 0 {
			return fds[0]
		}
	}
	return -1
}
