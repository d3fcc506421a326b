package stdio

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newFifo returns the end of a new fifo that a relay reads, which the poller knows, and the fifo's path.
func newFifo(t *testing.T) (*os.File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return pollable(fd, path), path
}

// TestInputBeforeTheRelay: clients write as soon as there is a fifo, and some have gone again by the time it is read.
func TestInputBeforeTheRelay(t *testing.T) {
	for _, stays := range []bool{false, true} {
		for range 200 {
			src, path := newFifo(t)
			client, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.WriteString("hello"); err != nil {
				t.Fatal(err)
			}
			if !stays {
				_ = client.Close()
			}
			var got bytes.Buffer
			r := &relay{src: src, dst: &got, buffers: &Buffers{}, waitFirst: true, drained: make(chan struct{})}
			go r.run()
			if stays {
				_ = client.Close()
			}
			select {
			case <-r.drained:
			case <-time.After(10 * time.Second):
				t.Fatalf("the relay has copied %q and goes on waiting", got.String())
			}
			if got.String() != "hello" {
				t.Fatalf("the relay has copied %q", got.String())
			}
		}
	}
}

// TestRelayAwaitsItsWriter: without a writer so far a fifo isn't at its end.
func TestRelayAwaitsItsWriter(t *testing.T) {
	src, path := newFifo(t)
	var got bytes.Buffer
	r := &relay{src: src, dst: &got, buffers: &Buffers{}, waitFirst: true, drained: make(chan struct{})}
	go r.run()
	select {
	case <-r.drained:
		t.Fatal("the relay has ended before there was a writer")
	case <-time.After(50 * time.Millisecond):
	}
	if err := os.WriteFile(path, []byte("hello"), 0); err != nil {
		t.Fatal(err)
	}
	<-r.drained
	if got.String() != "hello" {
		t.Errorf("the relay has copied %q", got.String())
	}
}

// refill is a surviving child that writes whenever its output was read.
type refill struct {
	pipe   *os.File
	copied int
}

func (w *refill) Write(p []byte) (int, error) {
	w.copied += len(p)
	return w.pipe.Write(p)
}

// TestSweepIsBounded: a relay that is told to drain copies what is in the pipe by then, though more comes all the time.
func TestSweepIsBounded(t *testing.T) {
	src, path := newFifo(t)
	pipe, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	const size = 50000 // more than a buffer
	if _, err := pipe.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	dst := &refill{pipe: pipe}
	r := &relay{src: src, dst: dst, buffers: &Buffers{}, drained: make(chan struct{})}
	if err := src.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	go r.run()
	select {
	case <-r.drained:
	case <-time.After(10 * time.Second):
		t.Fatal("the relay goes on copying")
	}
	if dst.copied != size {
		t.Errorf("%d bytes were copied, of %d", dst.copied, size)
	}
	r.abandon(false)
	_ = pipe.Close()
}

// TestDroppedOutputCostsLittle: a process that writes for ever after its output is dropped is slowed down.
func TestDroppedOutputCostsLittle(t *testing.T) {
	src, path := newFifo(t)
	pipe, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{src: src, dst: io.Discard, buffers: &Buffers{}, drained: make(chan struct{})}
	go r.run()
	r.beginDrain()
	<-r.drained
	const limit = 32 << 20
	written := 0
	for began := time.Now(); written < limit && time.Since(began) < 500*time.Millisecond; {
		n, err := pipe.Write(make([]byte, 1<<10))
		if err != nil {
			t.Fatal(err)
		}
		written += n
	}
	if written >= limit {
		t.Errorf("%d bytes were read in less than half a second", written)
	}
	_ = pipe.Close()
	r.abandon(true)
}
