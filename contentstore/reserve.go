package contentstore

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// reserve claims room on the disk for what an ingest is still to get, behind the n bytes that it has. A disk that is too
// small says so here, before anything is sent. Announced sizes come from strangers, so all reservations together take at
// most half of the room: the disk must not be full because of what may never come.
func (w *writer) reserve(n int64) error {
	wanted := w.status.Total - n
	if wanted <= 0 {
		return nil
	}
	var fs unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Fstatfs(int(w.file.Fd()), &fs) }); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	free := room(fs.Bavail, fs.Bsize)
	if wanted > free {
		return fmt.Errorf("cannot reserve %d bytes, only %d are free: %w", wanted, free, unix.ENOSPC)
	}
	w.store.mu.Lock()
	var others int64
	for _, other := range w.store.writers {
		others += other.filled.reserved
	}
	w.filled.reserved = max(0, min(wanted, (free+others)/2-others))
	wanted = w.filled.reserved
	w.store.mu.Unlock()
	if wanted == 0 {
		return nil
	}
	err := ignoringEINTR(func() error {
		return unix.Fallocate(int(w.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, n, wanted)
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // not every file system can
		return fmt.Errorf("cannot reserve %d bytes: %w", wanted, err)
	}
	return nil
}

// room is how many bytes blocks are, as far as an int64 can say.
func room(blocks uint64, size int64) int64 {
	const most = 1 << 62
	if size > 0 && blocks > most/uint64(size) {
		return most
	}
	return int64(blocks) * size
}

func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
