package unpack

import (
	"context"
	"fmt"
	"io"

	"github.com/berthd/berth/internal/errdefs"
)

// Limits bound what one layer may take.
type Limits struct {
	// Size bounds the archive, and the sum of the sizes of its files.
	Size int64
	// Ratio bounds the data on disk to so many times the size of the compressed layer, where it is more than 1 GiB.
	// Blocks of zeros are holes and do not count.
	Ratio int64
	// Entries bounds the files and directories, which cost inodes and memory though their size may be 0.
	Entries int64
}

// DefaultLimits let honest layers pass: data is rarely compressed to a tenth, but a file system's image may be nearly
// all holes.
func DefaultLimits() Limits { return Limits{Size: 128 << 30, Ratio: 200, Entries: 4 << 20} }

// minData is how much data each layer may have, however small it is.
const minData = 1 << 30

// maxDirNames bounds the names of a layer's directories, which are kept in memory until all else is written.
const maxDirNames = 256 << 20

// budgets are what is left of the limits while one layer is unpacked.
type budgets struct {
	archive, files, data, entries, dirNames budget
}

// budgets returns those of a layer that has so many bytes compressed.
func (l Limits) budgets(compressed int64) *budgets {
	data := l.Size
	if compressed < l.Size/l.Ratio {
		data = min(max(minData, compressed*l.Ratio), l.Size)
	}
	return &budgets{
		archive:  budget{what: "bytes", limit: l.Size},
		files:    budget{what: "bytes in its files", limit: l.Size},
		data:     budget{what: "bytes for its compressed size", limit: data},
		entries:  budget{what: "files and directories", limit: l.Entries},
		dirNames: budget{what: "bytes in the names of its directories", limit: maxDirNames},
	}
}

// budget is what is left of a limit.
type budget struct {
	what        string
	limit, used int64
}

func (b *budget) take(n int64) error {
	if n < 0 || n > b.limit-b.used {
		return errdefs.As(errdefs.ErrResourceExhausted, fmt.Errorf("the layer has more than the %d %s that are allowed", b.limit, b.what))
	}
	b.used += n
	return nil
}

// budgetReader takes what it reads from a budget.
type budgetReader struct {
	io.Reader
	budget *budget
}

func (r budgetReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if budgetErr := r.budget.take(int64(n)); budgetErr != nil {
		return 0, budgetErr
	}
	return n, err
}

// contextReader ends with its context, also where a sparse file of an archive has zeros without an end.
type contextReader struct {
	io.Reader
	ctx context.Context //nolint:containedctx // it lives as long as one call
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
