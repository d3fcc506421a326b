package unpack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/berthd/berth/internal/errdefs"
)

const readBuffer = 64 << 10

// maxZstdWindow bounds what a frame can make the decoder allocate; zstd --ultra asks for 128 MiB.
const maxZstdWindow = 128 << 20

// decompress returns the archive in a layer. Its first bytes tell how it is compressed: media types are known to lie.
// An error that is not the layer's own is the archive's fault.
func decompress(layer io.Reader) (io.ReadCloser, error) {
	source := &source{Reader: layer}
	buffered := bufio.NewReaderSize(source, readBuffer)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		r, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, source.blame(err)
		}
		return decompressor{r, source}, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}): // a frame to skip
		r, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, source.blame(err)
		}
		return decompressor{r.IOReadCloser(), source}, nil
	}
	return io.NopCloser(buffered), nil
}

// source remembers the error of what is decompressed.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func (s *source) blame(err error) error {
	if s.err != nil {
		return s.err
	}
	return badArchive(err)
}

type decompressor struct {
	io.ReadCloser
	source *source
}

func (d decompressor) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = d.source.blame(err)
	}
	return n, err
}

func badArchive(err error) error {
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("the archive is damaged: %w", err))
}
