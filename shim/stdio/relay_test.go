package stdio

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openFifo returns the end of a new fifo that a relay reads, which the poller knows, and the fifo's path.
func openFifo(t *testing.T) (*os.File, string) {
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
			src, path := openFifo(t)
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
	src, path := openFifo(t)
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
