package stdio

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize is what one read takes: half a pipe, so that the process can fill one half while the other is written.
const bufferSize = 32 << 10

// Buffers are what all relays of a container share. The zero value is ready to use.
type Buffers struct {
	pool sync.Pool
}

func (b *Buffers) get() *[bufferSize]byte {
	if buf, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buf
	}
	return new([bufferSize]byte)
}

func (b *Buffers) put(buf *[bufferSize]byte) { b.pool.Put(buf) }

// A relay copies what can be read from src to dst. It holds a buffer only while there is something to copy: most
// containers are silent most of the time, and each would pay for three buffers.
type relay struct {
	src       *os.File
	dst       io.Writer
	buffers   *Buffers
	terminal  bool // src is a pty's master
	waitFirst bool // src is a fifo that nobody may have opened for writing yet

	sink    *target       // dst, where that is closed by the relay at the end of the output
	drained chan struct{} // closed when what the exited process wrote was copied
	once    sync.Once
}

func (p *Process) relay(src *os.File, dst io.Writer) *relay {
	r := &relay{src: src, dst: dst, buffers: p.config.Buffers, drained: make(chan struct{})}
	r.sink, _ = dst.(*target)
	return r
}

// toFifo reports whether the output goes to a fifo.
func (r *relay) toFifo() bool { return r.sink != nil && r.sink.reader != nil }

// dropPause is the pause between reads of output that is dropped. It holds a process that writes without an end to some
// 3 MB/s, so that it costs the shim next to no processor time.
const dropPause = 10 * time.Millisecond

// run copies until the end of src, which it closes. After drain it only reads, so that a process that still holds the
// other end is neither stopped nor killed, but slowed down.
func (r *relay) run() {
	defer r.finish()
	defer func() { _ = r.src.Close() }()
	raw, err := r.src.SyscallConn()
	if err != nil {
		return
	}
	for dropping := false; ; {
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			_, readErr = r.copyOnce(int(fd), bufferSize)
			if errors.Is(readErr, io.EOF) && r.waitFirst && !hungUp(int(fd)) {
				return false // a fifo without a writer so far reads as ended too
			}
			return !errors.Is(readErr, unix.EAGAIN)
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			_ = r.src.SetReadDeadline(time.Time{})
			r.sweep()
			r.finish()
			r.dst, dropping = io.Discard, true
		case err != nil, readErr != nil:
			return // closed; or the end: io.EOF, and EIO from a pty whose last slave was closed
		case dropping:
			time.Sleep(dropPause)
		}
	}
}

// hungUp tells whether a fifo has had a writer, and has none any more.
func hungUp(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, err := unix.Poll(poll, 0)
	return err == nil && poll[0].Revents&unix.POLLHUP != 0
}

// copyOnce copies up to limit bytes, and returns how many there were, or EAGAIN if there is nothing to read now.
func (r *relay) copyOnce(fd, limit int) (int, error) {
	buf := r.buffers.get()
	defer r.buffers.put(buf)
	n, err := unix.Read(fd, buf[:min(limit, bufferSize)])
	for err == unix.EINTR {
		n, err = unix.Read(fd, buf[:min(limit, bufferSize)])
	}
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	if _, err := r.dst.Write(buf[:n]); err != nil {
		r.dst = io.Discard // nobody is there any more: the process must not notice
	}
	return n, nil
}

// terminalSweep bounds what is copied of a terminal that is still open after its process: the kernel does not say how
// much is on its way.
const terminalSweep = 64 << 10

// sweep copies what is there to read now, and no more: a surviving child may write faster than this reads.
func (r *relay) sweep() {
	raw, err := r.src.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		left := terminalSweep
		if !r.terminal {
			if left, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ); err != nil {
				return true
			}
		}
		for left > 0 {
			n, err := r.copyOnce(int(fd), left)
			if err != nil {
				return true
			}
			left -= n
		}
		return true
	})
}

// finish says that the output is complete, and closes the fifo that it went to: its reader waits for the end.
func (r *relay) finish() {
	r.once.Do(func() {
		if r.sink != nil {
			r.sink.close()
		}
		close(r.drained)
	})
}

// hangup bounds how long the end of a terminal is awaited: it comes at once, unless processes that outlive the one
// that owned it keep it open. Unlike a pipe's, its output may arrive a little after its writer's exit.
const hangup = time.Second

// beginDrain has the relay end when it has copied everything that the exited process wrote, or when the client of a fifo
// has read nothing for too long. The end is drained.
func (r *relay) beginDrain() {
	deadline := time.Now()
	if r.sink != nil {
		_ = r.sink.writer.SetWriteDeadline(deadline.Add(slowFifo))
	}
	if r.terminal {
		deadline = deadline.Add(hangup)
	}
	_ = r.src.SetReadDeadline(deadline)
}

// abandon releases a relay at the end of its process. One that runs goes on to read for whoever holds the other end,
// but a terminal is hung up.
func (r *relay) abandon(running bool) {
	if !running || r.terminal {
		_ = r.src.Close()
	}
	if !running {
		r.finish()
	}
}
