package logs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Follow is Read, and then calls send with what is logged, until ended is closed and all is read, or the time that the
// query names as the last has come.
func (r *Reader) Follow(ctx context.Context, query Query, ended <-chan struct{}, send func(Line) error) error {
	if !query.Until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, query.Until)
		defer cancel()
	}
	// Before the first read, so that no change is missed.
	changes, stop := r.watcher.Watch(filepath.Dir(r.path))
	defer stop()
	files, err := r.open()
	if err != nil {
		return err
	}
	if len(files) > 0 {
		last := len(files) - 1
		r.current = files[last]
		defer closeAll(files[:last])
	}
	if err := r.readFiles(files, query, send); err != nil {
		return err
	}
	deliver := func(line Line) error {
		if !query.wants(line) {
			return nil
		}
		return send(line)
	}
	for {
		final := false
		select {
		case <-changes:
		case <-ended:
			final = true
		case <-ctx.Done():
			if !query.Until.IsZero() && !time.Now().Before(query.Until) {
				return nil
			}
			return ctx.Err()
		}
		if err := r.catchUp(deliver); err != nil || final {
			return err
		}
	}
}

// catchUp reads what has been added, and goes on with the next file when the log was rotated.
func (r *Reader) catchUp(deliver func(Line) error) error {
	for {
		// Asked before reading on: what comes after a rotation is in the next file.
		next, err := r.next()
		if err != nil {
			return err
		}
		if r.current != nil {
			if err := r.scanFile(r.current, deliver); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		if r.current != nil {
			_ = r.current.Close()
		}
		r.current, r.partial = next, nil
	}
}

// next opens the file that follows the current one, or returns nil if there is none. When the log was rotated several
// times since the last look, it is the one whose predecessor is the current one.
func (r *Reader) next() (*os.File, error) {
	files, err := r.open()
	if err != nil || len(files) == 0 {
		return nil, err
	}
	chosen := 0 // everything is new
	if r.current != nil {
		info, err := r.current.Stat()
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("cannot read the log: %w", err)
		}
		for i, file := range files {
			if other, err := file.Stat(); err == nil && os.SameFile(info, other) {
				chosen = i + 1
			}
		}
	}
	var next *os.File
	for i, file := range files {
		if i == chosen {
			next = file
			continue
		}
		_ = file.Close()
	}
	return next, nil
}
