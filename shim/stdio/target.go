package stdio

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// A target is a fifo or a file that output goes to.
type target struct {
	writer *os.File
	// reader is the shim's own read end of a fifo. A manager that restarts closes its end, and must not kill the process
	// with SIGPIPE.
	reader *os.File
	once   sync.Once
}

// openTarget opens a target for a process, to which it is handed over: writes to it block.
func openTarget(uri string) (*target, error) {
	scheme, _, found := strings.Cut(uri, "://")
	if found && scheme != "file" && scheme != "fifo" {
		return nil, errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("cannot write output to %q: scheme %q is not implemented", uri, scheme))
	}
	path := uri
	if found {
		u, err := url.Parse(uri)
		if err != nil || !strings.HasPrefix(u.Path, "/") {
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot write output to %q: it is no URI of an absolute path", uri))
		}
		path = u.Path
	}
	if scheme == "file" {
		return openFile(path)
	}
	return openFifo(path)
}

// openFile opens an output file. A fifo without a reader is refused, where the kernel would wait for the reader.
func openFile(path string) (*target, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o640)
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open output file: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	return &target{writer: os.NewFile(uintptr(fd), path)}, nil
}

// openFifo opens an output fifo without waiting for its reader.
func openFifo(path string) (*target, error) {
	r, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open output fifo: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	reader := pollable(r, path)
	w, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = reader.Close()
		return nil, fmt.Errorf("cannot open output fifo: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	return &target{writer: os.NewFile(uintptr(w), path), reader: reader}, nil
}

// openRelayed opens a target that a relay writes: a client that doesn't read makes a goroutine wait, not a thread.
func openRelayed(uri string) (*target, error) {
	t, err := openTarget(uri)
	if err != nil {
		return nil, err
	}
	// A file's Fd would be made blocking again, so the descriptor changes its owner.
	fd, err := unix.FcntlInt(t.writer.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = t.writer.Close()
	if err != nil {
		if t.reader != nil {
			_ = t.reader.Close()
		}
		return nil, fmt.Errorf("cannot write output to %q: %w", uri, os.NewSyscallError("fcntl", err))
	}
	t.writer = pollable(fd, uri)
	return t, nil
}

// Write implements io.Writer.
func (t *target) Write(p []byte) (int, error) { return t.writer.Write(p) }

// close ends the output for the target's reader.
func (t *target) close() {
	t.once.Do(func() {
		_ = t.writer.Close()
		if t.reader != nil {
			_ = t.reader.Close()
		}
	})
}
