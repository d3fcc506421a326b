package unpack

import (
	"io"
	"log/slog"

	"github.com/berthd/berth/internal/panics"
)

// readAhead decompresses on one processor while files are written on another.
type readAhead struct {
	source io.ReadCloser
	full   chan chunk
	empty  chan []byte
	stop   chan struct{}
	done   chan struct{}
	chunk  chunk
	buffer []byte
}

type chunk struct {
	data []byte
	err  error
}

const (
	aheadBuffers = 4
	aheadSize    = 256 << 10
)

// newReadAhead starts reading. It owns source from now on.
func newReadAhead(source io.ReadCloser) *readAhead {
	r := &readAhead{
		source: source, full: make(chan chunk, aheadBuffers), empty: make(chan []byte, aheadBuffers),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	for range aheadBuffers {
		r.empty <- make([]byte, aheadSize)
	}
	go r.run()
	return r
}

func (r *readAhead) run() {
	defer close(r.done)
	for {
		var buffer []byte
		select {
		case buffer = <-r.empty:
		case <-r.stop:
			return
		}
		n, err := r.fill(buffer)
		if err == io.ErrUnexpectedEOF { //nolint:errorlint // ReadFull's own, for a last buffer that is not full
			err = io.EOF
		}
		r.full <- chunk{buffer[:n], err} // never blocks: there are no more buffers than places
		if err != nil {
			return
		}
	}
}

// fill reads a buffer full. Bytes from strangers may lead a decompressor into a panic, which is the end of this layer only.
func (r *readAhead) fill(buffer []byte) (n int, err error) {
	defer panics.Recover(slog.Default(), "the decompression of a layer", &err)
	return io.ReadFull(r.source, buffer)
}

func (r *readAhead) Read(p []byte) (int, error) {
	for len(r.chunk.data) == 0 {
		if r.chunk.err != nil {
			return 0, r.chunk.err
		}
		if r.buffer != nil {
			r.empty <- r.buffer
		}
		r.chunk = <-r.full
		r.buffer = r.chunk.data[:cap(r.chunk.data)]
	}
	n := copy(p, r.chunk.data)
	r.chunk.data = r.chunk.data[n:]
	return n, nil
}

// Close stops reading and waits until that has ended.
func (r *readAhead) Close() {
	close(r.stop)
	<-r.done
	_ = r.source.Close()
}
