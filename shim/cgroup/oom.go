package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// OOMWatch calls back when memory has become short in a cgroup. It costs an idle container a goroutine and a descriptor.
type OOMWatch struct{ events *os.File }

// settleTime is how long after its event a kill is awaited with version 1, which tells of the shortage, and kills then.
const settleTime = time.Second

// WatchOOM calls killed after each time that the kernel has killed a process because memory was short, until the watch is
// closed or the cgroup is gone.
func (c Cgroup) WatchOOM(killed func()) (*OOMWatch, error) {
	var events *os.File
	var err error
	if c.unified != "" {
		events, err = openEvents(filepath.Join(c.unified, "memory.events"))
	} else {
		events, err = registerEvents(c.v1["memory"])
	}
	if err != nil {
		return nil, fmt.Errorf("cannot watch for a shortage of memory: %w", err)
	}
	seen := c.OOMKills()
	go func() {
		defer func() { _ = events.Close() }()
		for c.await(events, seen) == nil {
			deadline := time.Now().Add(settleTime)
			kills := c.OOMKills()
			for kills == seen && c.unified == "" && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
				kills = c.OOMKills()
			}
			if kills > seen {
				seen = kills
				killed()
			}
		}
	}()
	return &OOMWatch{events: events}, nil
}

// Close ends the watch. A nil one does nothing.
func (w *OOMWatch) Close() {
	if w != nil {
		_ = w.events.Close()
	}
}

// registerEvents returns a descriptor that version 1 writes to when memory is short.
func registerEvents(dir string) (*os.File, error) {
	if dir == "" {
		return nil, errors.New("the container has no cgroup of memory")
	}
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	events := os.NewFile(uintptr(fd), "eventfd")
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(line), 0); err != nil {
		_ = events.Close()
		return nil, err
	}
	return events, nil
}

// openEvents opens the file of version 2, whose pollers are woken when it changes.
func openEvents(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// await returns at the next event. The file of version 2 can always be read, so that only a wake-up tells of one: the kills
// since those that have been seen are looked for when an event can't be missed any more.
func (c Cgroup) await(events *os.File, seen uint64) error {
	var counter [8]byte
	if c.unified == "" {
		_, err := events.Read(counter[:])
		return err
	}
	raw, err := events.SyscallConn()
	if err != nil {
		return err
	}
	waited := false
	err = raw.Read(func(fd uintptr) bool {
		if waited {
			return true
		}
		waited = true
		var content [256]byte
		_, _ = unix.Pread(int(fd), content[:], 0) // what comes after this is news
		return c.OOMKills() > seen
	})
	if err == nil && !waited {
		return io.ErrUnexpectedEOF
	}
	return err
}
