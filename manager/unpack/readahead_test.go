package unpack

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/berthd/berth/internal/panics"
)

// panicking is a decompressor that its input leads into a panic.
type panicking struct{ io.Reader }

func (p panicking) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if err != nil {
		panic("index out of range")
	}
	return n, nil
}

func (panicking) Close() error { return nil }

func TestPanicOfADecompressor(t *testing.T) {
	ahead := newReadAhead(panicking{bytes.NewReader(make([]byte, 3*aheadSize/2))})
	n, err := io.Copy(io.Discard, ahead)
	if fault := (panics.Error{}); !errors.As(err, &fault) || n < aheadSize {
		t.Errorf("%d bytes, %v", n, err)
	}
	ahead.Close()
}
