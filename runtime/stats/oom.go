package stats

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// OOM watches a cgroup for processes that are killed because memory has run out.
type OOM struct {
	kills  func() (gone bool, killed uint64, err error)
	poll   unix.PollFd
	files  []*os.File
	killed uint64
}

// WatchOOM starts watching the cgroup with these directories.
func WatchOOM(paths map[string]string) (*OOM, error) {
	dir, unified := paths[""]
	if !unified || len(paths) > 1 {
		return watchV1(paths["memory"])
	}
	events, err := os.Open(filepath.Join(dir, "memory.events"))
	if err != nil {
		return nil, fmt.Errorf("cannot watch for lack of memory: %w", err)
	}
	o := &OOM{files: []*os.File{events}, poll: unix.PollFd{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
	o.kills = func() (bool, uint64, error) { return readKills(events) }
	_, o.killed, err = o.kills()
	return o, err
}

// readKills reads memory.events again. Once the cgroup has been removed that fails with ENODEV.
func readKills(events *os.File) (gone bool, killed uint64, err error) {
	content := make([]byte, 4096)
	n, err := events.ReadAt(content, 0)
	if errors.Is(err, unix.ENODEV) {
		return true, 0, nil
	}
	if n == 0 {
		return false, 0, fmt.Errorf("cannot watch for lack of memory: %w", err)
	}
	r := &reader{}
	for line := range strings.Lines(string(content[:n])) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			killed = r.parse(value)
		}
	}
	return false, killed, r.err
}

// watchV1 asks the kernel to count lack of memory in an event descriptor. It is also told of the cgroup's removal.
func watchV1(dir string) (*OOM, error) {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, fmt.Errorf("cannot watch for lack of memory: %w", err)
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot watch for lack of memory: %w", err), control.Close())
	}
	counter := os.NewFile(uintptr(fd), "eventfd")
	o := &OOM{files: []*os.File{control, counter}, poll: unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}}
	register := filepath.Join(dir, "cgroup.event_control")
	if err := os.WriteFile(register, fmt.Appendf(nil, "%d %d", fd, control.Fd()), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot watch for lack of memory: %w", err), o.Close())
	}
	var killed uint64
	o.kills = func() (bool, uint64, error) {
		if _, err := os.Lstat(register); err != nil {
			return true, killed, nil
		}
		count := make([]byte, 8)
		if _, err := unix.Read(fd, count); err != nil {
			return false, killed, fmt.Errorf("cannot watch for lack of memory: %w", err)
		}
		killed += binary.NativeEndian.Uint64(count)
		return false, killed, nil
	}
	return o, nil
}

// News is what a wait has brought.
type News int

// The news.
const (
	Nothing News = iota
	Killed       // a process was killed since the last time
	Gone         // the cgroup was removed
)

// Wait waits for news, at most for the given time, which may be none.
func (o *OOM) Wait(timeout time.Duration) (News, error) {
	n, err := unix.Poll([]unix.PollFd{o.poll}, int((timeout+time.Millisecond-1)/time.Millisecond))
	switch {
	case errors.Is(err, unix.EINTR):
		return Nothing, nil
	case err != nil:
		return Nothing, fmt.Errorf("cannot watch for lack of memory: %w", err)
	case n == 0 && o.poll.Events == unix.POLLIN:
		return Nothing, nil // an event descriptor must not be read when there is nothing
	}
	gone, killed, err := o.kills()
	switch {
	case err != nil:
		return Nothing, err
	case gone:
		return Gone, nil
	case killed > o.killed:
		o.killed = killed
		return Killed, nil
	}
	return Nothing, nil
}

// Close stops watching.
func (o *OOM) Close() error {
	var errs []error
	for _, file := range o.files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}
