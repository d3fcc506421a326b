package shims

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/unixsocket"
)

// The stream socket carries frames both ways:
//
//	byte 0: stream (0 stdin, 1 stdout, 2 stderr)   bytes 1-3: zero   bytes 4-7: length, big endian   then the payload
//
// A stdin frame of length 0 ends the process's input. The shim closes the connection when all output has been sent.
const (
	headerSize = 8
	maxFrame   = 1 << 20 // more than any frame of the shim's: a larger length is a broken stream
)

// Streams of a frame.
const (
	Stdin  = 0
	Stdout = 1
	Stderr = 2
)

// StreamURI tells the shim to serve a process's streams on the socket at path.
type StreamURI struct {
	Path string
	// Log is the json-file log to write. Empty: none.
	Log     string
	MaxSize int64
	MaxFile int
	// StdinOnce closes the process's input when the first client's ends.
	StdinOnce bool
}

// String is the form that the shim reads.
func (u StreamURI) String() string {
	query := url.Values{}
	if u.Log != "" {
		query.Set("log", u.Log)
	}
	if u.MaxSize > 0 {
		query.Set("max-size", strconv.FormatInt(u.MaxSize, 10))
	}
	if u.MaxFile > 0 {
		query.Set("max-file", strconv.Itoa(u.MaxFile))
	}
	if u.StdinOnce {
		query.Set("stdin-once", "1")
	}
	return (&url.URL{Scheme: "stream", Path: u.Path, RawQuery: query.Encode()}).String()
}

// IO gives all streams of a process the same URI, its input only if it is wanted.
func (u StreamURI) IO(stdin, terminal bool) IO {
	uri := u.String()
	streams := IO{Stdout: uri, Stderr: uri, Terminal: terminal}
	if stdin {
		streams.Stdin = uri
	}
	return streams
}

// Stream is one client's connection to a process's streams. One goroutine may read while others write.
type Stream struct {
	connection net.Conn
	header     [headerSize]byte
	buffer     []byte

	mu sync.Mutex // one frame is written at a time
}

// OpenStream connects to the socket at path.
func OpenStream(path string) (*Stream, error) {
	connection, err := unixsocket.Dial(path)
	if err != nil {
		return nil, errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("cannot connect to the process's streams: %w", err))
	}
	return &Stream{connection: connection}, nil
}

// Read returns the next piece of output, which is valid until the next Read. io.EOF: the process has exited and all
// its output has been read.
func (s *Stream) Read() (stream byte, data []byte, err error) {
	if _, err := io.ReadFull(s.connection, s.header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(s.header[4:])
	if length > maxFrame {
		return 0, nil, fmt.Errorf("cannot read the process's output: a frame of %d bytes", length)
	}
	if cap(s.buffer) < int(length) {
		s.buffer = make([]byte, length)
	}
	data = s.buffer[:length]
	if _, err := io.ReadFull(s.connection, data); err != nil {
		return 0, nil, err
	}
	return s.header[0], data, nil
}

// Write sends input to the process.
func (s *Stream) Write(data []byte) (int, error) {
	sent := 0
	for len(data) > 0 {
		piece := data[:min(len(data), maxFrame)]
		if err := s.frame(piece); err != nil {
			return sent, err
		}
		sent += len(piece)
		data = data[len(piece):]
	}
	return sent, nil
}

// EndInput tells the process that there is no more input.
func (s *Stream) EndInput() error { return s.frame(nil) }

func (s *Stream) frame(data []byte) error {
	frame := make([]byte, headerSize, headerSize+len(data))
	frame[0] = Stdin
	binary.BigEndian.PutUint32(frame[4:], uint32(len(data)))
	frame = append(frame, data...)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.connection.Write(frame)
	return err
}

// Close ends the connection. The process goes on.
func (s *Stream) Close() error { return s.connection.Close() }
