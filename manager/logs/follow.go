package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
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
	changes, stop, err := watch(filepath.Dir(r.path))
	if err != nil {
		return err
	}
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

// watch returns a channel that gets something after each change in dir.
func watch(dir string) (<-chan struct{}, func(), error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, os.NewSyscallError("inotify_init1", err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		return nil, nil, errors.Join(&fs.PathError{Op: "inotify_add_watch", Path: dir, Err: err}, file.Close())
	}
	changes, stopped := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(stopped)
		buffer := make([]byte, 4096)
		for {
			if _, err := file.Read(buffer); err != nil {
				return
			}
			select {
			case changes <- struct{}{}:
			default: // one is under way already
			}
		}
	}()
	return changes, func() { _ = file.Close(); <-stopped }, nil
}
