package stdio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// A hub is the socket of a stream:// URI and the clients attached to it. Frames go both ways:
//
//	byte 0      1 2 3   4 5 6 7              8 …
//	stream      0 0 0   length, big endian   payload
//
//	stream 0, from the client: input; a frame of length 0 is its end
//	stream 1 and 2, to the client: stdout and stderr
//
//	stream:///abs/path.sock?log=/abs/path.log&max-size=BYTES&max-file=N&stdin-once=1
type hub struct {
	stdinOnce bool
	log       *jsonLog // nil without log=
	listener  *Listener
	input     func([]byte) error // feeds the process
	inputEnd  func()

	output  sync.Mutex // orders output; held while a slow client takes its time
	scratch frame

	mu       sync.Mutex
	clients  map[*client]struct{}
	first    *client // whose end of input ends the process's, with stdin-once
	finished bool    // the process has exited and its output was delivered
	deadline time.Time

	started chan struct{} // closed when the process was started: input waits for that
	done    chan struct{} // closed by close, under mu: there will be no more clients
	group   sync.WaitGroup
}

type client struct {
	conn *net.UnixConn
}

const (
	frameHeader = 8
	// maxInput bounds what a client can make the shim hold in memory: longer frames are taken in pieces.
	maxInput = 32 << 10
)

// listen parses the URI and opens its socket and log.
func listen(uri string) (_ *hub, err error) {
	u, err := url.Parse(uri)
	if err != nil || u.Host != "" || !strings.HasPrefix(u.Path, "/") {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot use stream %q: it is no URI of an absolute path", uri))
	}
	query := u.Query()
	h := &hub{
		stdinOnce: query.Get("stdin-once") == "1",
		clients:   map[*client]struct{}{},
		started:   make(chan struct{}),
		done:      make(chan struct{}),
	}
	if path := query.Get("log"); path != "" {
		if h.log, err = openLog(path, query); err != nil {
			return nil, err
		}
	}
	if h.listener, err = ListenUnix(u.Path); err != nil {
		_ = h.log.close()
		return nil, err
	}
	h.group.Go(h.accept)
	return h, nil
}

// SamePeer reports whether the other side of a connection runs as this process's user or as root.
func SamePeer(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	if ctlErr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); ctlErr != nil || err != nil {
		return false
	}
	return peer.Uid == 0 || int(peer.Uid) == os.Geteuid()
}

func (h *hub) accept() {
	for {
		conn, err := h.listener.AcceptUnix()
		switch {
		case err == nil:
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ECONNABORTED):
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-h.done:
				return
			}
		default:
			return
		}
		if !SamePeer(conn) {
			_ = conn.Close()
			continue
		}
		c := &client{conn: conn}
		if !h.attach(c) {
			_ = conn.Close()
			return
		}
		h.group.Go(func() { h.serve(c) })
	}
}

// attach adds a client, unless the hub is closed. If there will be no more output, the client sees the end at once.
func (h *hub) attach(c *client) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.done:
		return false
	default:
	}
	_ = c.conn.SetWriteDeadline(h.deadline)
	h.clients[c] = struct{}{}
	if h.first == nil {
		h.first = c
	}
	if h.finished {
		_ = c.conn.CloseWrite()
	}
	return true
}

// drop forgets a client.
func (h *hub) drop(c *client) {
	h.mu.Lock()
	delete(h.clients, c)
	h.mu.Unlock()
	_ = c.conn.Close()
}

// serve takes a client's input until it is gone.
func (h *hub) serve(c *client) {
	select {
	case <-h.started:
	case <-h.done:
		h.drop(c)
		return
	}
	err := h.readInput(c)
	h.mu.Lock()
	first := h.first == c
	h.mu.Unlock()
	if first && h.stdinOnce {
		h.inputEnd()
	}
	if errors.Is(err, io.EOF) {
		awaitHangup(c.conn)
	}
	h.drop(c)
}

// readInput feeds the client's frames to the process. It returns io.EOF when the client will send no more.
func (h *hub) readInput(c *client) error {
	var header [frameHeader]byte
	for {
		if _, err := io.ReadFull(c.conn, header[:]); err != nil {
			return err
		}
		length := binary.BigEndian.Uint32(header[4:])
		if header[0] != 0 {
			return fmt.Errorf("cannot take a frame of stream %d from a client", header[0])
		}
		if length == 0 {
			h.inputEnd()
			continue
		}
		if err := h.readFrame(c, int64(length)); err != nil {
			return err
		}
	}
}

func (h *hub) readFrame(c *client, length int64) error {
	buf := make([]byte, min(length, maxInput))
	for length > 0 {
		n, err := io.ReadFull(c.conn, buf[:min(length, maxInput)])
		if err != nil {
			return err
		}
		length -= int64(n)
		_ = h.input(buf[:n]) // a process that closed its stdin doesn't make its client wrong
	}
	return nil
}

// awaitHangup returns when the other side has closed the connection, having closed its sending half before.
func awaitHangup(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(poll, 0)
		return err != nil && err != unix.EINTR || poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
}

// streamWriter writes one stream of output to the log and to every client.
type streamWriter struct {
	hub    *hub
	stream byte
}

func (h *hub) writer(stream byte) streamWriter { return streamWriter{hub: h, stream: stream} }

// frame is what Write needs for each frame, kept between them: output is all that a shim does often.
type frame struct {
	clients []*client
	header  [frameHeader]byte
	parts   [2][]byte
	unsent  net.Buffers
}

// Write never fails: the process does not depend on who listens.
func (w streamWriter) Write(p []byte) (int, error) {
	h := w.hub
	h.output.Lock()
	defer h.output.Unlock()
	h.log.write(w.stream, p)
	f := &h.scratch
	f.clients = f.clients[:0]
	h.mu.Lock()
	for c := range h.clients {
		f.clients = append(f.clients, c)
	}
	h.mu.Unlock()
	f.header[0] = w.stream
	binary.BigEndian.PutUint32(f.header[4:], uint32(len(p)))
	for _, c := range f.clients {
		f.parts = [2][]byte{f.header[:], p}
		f.unsent = f.parts[:]
		if _, err := f.unsent.WriteTo(c.conn); err != nil {
			h.drop(c)
		}
	}
	f.parts = [2][]byte{} // the caller's buffer goes to others
	clear(f.clients)
	return len(p), nil
}

// begin lets input through to the process.
func (h *hub) begin() { close(h.started) }

// limitWrites bounds how long clients that don't read may hold up output from now on.
func (h *hub) limitWrites(deadline time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline = deadline
	for c := range h.clients {
		_ = c.conn.SetWriteDeadline(deadline)
	}
}

// finish ends the output: what remains of unfinished lines is logged, and clients see the end. Their connections stay
// until they close them: closing one with unread input would make the client see an error instead of the end.
func (h *hub) finish() {
	h.output.Lock()
	h.log.flush()
	h.output.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.finished = true
	for c := range h.clients {
		_ = c.conn.CloseWrite()
	}
}

// close ends the hub and removes its socket.
func (h *hub) close() error {
	h.finish()
	err := h.listener.Remove()
	h.mu.Lock()
	close(h.done) // a client that is being accepted right now is not waited for
	for c := range h.clients {
		_ = c.conn.Close()
	}
	h.mu.Unlock()
	h.group.Wait()
	return errors.Join(err, h.log.close())
}

// number parses a count of the URI's query.
func number(query url.Values, key string, fallback int64) (int64, error) {
	text := query.Get(key)
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot use %s=%q of a stream: it is no number of 0 or more", key, text))
	}
	return n, nil
}
