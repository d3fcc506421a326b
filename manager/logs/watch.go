package logs

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/panics"
)

// Watcher tells followers of logs about changes in directories. All followers share one inotify instance: the kernel
// allows each user a small number (128), which the host's other programs need too. The zero value is ready for use.
type Watcher struct {
	mu      sync.Mutex
	current *instance // nil while nobody watches
}

// instance is one inotify instance. The Watcher's lock guards its maps.
type instance struct {
	file      *os.File
	stopped   chan struct{} // closed when nothing reads from file any more
	listeners map[int32]map[chan struct{}]struct{}
	watches   map[string]int32 // by directory
}

// pollInterval is how often a follower looks where the kernel gives no inotify instance or watch.
const pollInterval = 200 * time.Millisecond

// Watch returns a channel that gets something after each change in dir, until stop is called.
func (w *Watcher) Watch(dir string) (changes <-chan struct{}, stop func()) {
	listener := make(chan struct{}, 1)
	i, watch, err := w.listen(dir, listener)
	if err != nil {
		return poll(listener)
	}
	return listener, func() { w.unlisten(i, watch, dir, listener) }
}

// poll stands in for inotify: the follower looks for changes at intervals.
func poll(listener chan struct{}) (<-chan struct{}, func()) {
	ticker := time.NewTicker(pollInterval)
	done := make(chan struct{})
	var owner sync.WaitGroup
	owner.Go(func() {
		for {
			select {
			case <-ticker.C:
				notify(listener)
			case <-done:
				return
			}
		}
	})
	return listener, func() {
		ticker.Stop()
		close(done)
		owner.Wait()
	}
}

func notify(listener chan struct{}) {
	select {
	case listener <- struct{}{}:
	default: // a notice is under way already
	}
}

func (w *Watcher) listen(dir string, listener chan struct{}) (*instance, int32, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.current
	if i == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, 0, os.NewSyscallError("inotify_init1", err)
		}
		i = &instance{
			file: os.NewFile(uintptr(fd), "inotify"), stopped: make(chan struct{}),
			listeners: map[int32]map[chan struct{}]struct{}{}, watches: map[string]int32{},
		}
		go w.read(i)
	}
	watch, known := i.watches[dir]
	if !known {
		number, err := i.add(dir)
		if err != nil {
			if w.current == nil {
				_ = i.file.Close() // ends read
			}
			return nil, 0, err
		}
		watch = number
		i.watches[dir], i.listeners[watch] = watch, map[chan struct{}]struct{}{}
	}
	i.listeners[watch][listener] = struct{}{}
	w.current = i
	return i, watch, nil
}

// add makes the watch of a directory. The descriptor is used inside Control: Fd would make the file blocking.
func (i *instance) add(dir string) (watch int32, err error) {
	raw, err := i.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var number int
	var addErr error
	err = raw.Control(func(fd uintptr) {
		number, addErr = unix.InotifyAddWatch(int(fd), dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO)
	})
	if err = errors.Join(err, addErr); err != nil {
		return 0, &fs.PathError{Op: "inotify_add_watch", Path: dir, Err: err}
	}
	return int32(number), nil
}

// unlisten ends the watch with its last listener, and the instance with its last watch.
func (w *Watcher) unlisten(i *instance, watch int32, dir string, listener chan struct{}) {
	w.mu.Lock()
	delete(i.listeners[watch], listener)
	if len(i.listeners[watch]) == 0 {
		i.forget(watch)
		if raw, err := i.file.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(watch)) }) // it may be gone with its directory
		}
	}
	last := len(i.listeners) == 0
	if last && w.current == i {
		w.current = nil
	}
	w.mu.Unlock()
	if last {
		_ = i.file.Close()
		<-i.stopped
	}
}

// forget drops a watch that is no more. The caller holds the Watcher's lock.
func (i *instance) forget(watch int32) {
	delete(i.listeners, watch)
	for dir, number := range i.watches {
		if number == watch {
			delete(i.watches, dir)
		}
	}
}

// read passes events on until the instance is closed.
func (w *Watcher) read(i *instance) {
	defer close(i.stopped)
	buffer := make([]byte, 16<<10)
	for {
		n, err := i.file.Read(buffer)
		if err != nil {
			return
		}
		w.pass(i, buffer[:n])
	}
}

// pass tells the listeners of events. A panic loses these events only.
func (w *Watcher) pass(i *instance, events []byte) {
	defer panics.Recover(slog.Default(), "the watch of logs", nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		watch := int32(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint32(events[4:])
		name := binary.NativeEndian.Uint32(events[12:]) // the length of the name that follows
		events = events[min(len(events), unix.SizeofInotifyEvent+int(name)):]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			i.notifyAll()
		}
		for listener := range i.listeners[watch] {
			notify(listener)
		}
	}
}

// notifyAll is for events that the kernel had no room for: each listener looks itself.
func (i *instance) notifyAll() {
	for _, listeners := range i.listeners {
		for listener := range listeners {
			notify(listener)
		}
	}
}
