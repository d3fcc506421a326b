// Package netns runs functions inside a network namespace.
package netns

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Handle is an open network namespace.
type Handle struct {
	ns   netns.NsHandle
	path string
}

// Open opens the namespace at path. It refuses anything else than a namespace file: the runtime may name a path that
// was a namespace once.
func Open(path string) (Handle, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return Handle{}, fmt.Errorf("cannot open network namespace %q: %w", path, err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &fs); err != nil {
		_ = ns.Close()
		return Handle{}, fmt.Errorf("cannot open network namespace %q: %w", path, err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		_ = ns.Close()
		return Handle{}, fmt.Errorf("cannot open network namespace %q: it is not a namespace: %w", path, os.ErrNotExist)
	}
	return Handle{ns: ns, path: path}, nil
}

// Fd is the descriptor, which the kernel takes as IFLA_NET_NS_FD. It is valid until Close.
func (h Handle) Fd() int { return int(h.ns) }

// Close releases the namespace.
func (h Handle) Close() { _ = h.ns.Close() }

// IsCurrent tells whether the calling thread is in the namespace.
func (h Handle) IsCurrent() (bool, error) {
	current, err := netns.Get()
	if err != nil {
		return false, fmt.Errorf("cannot open the current network namespace: %w", err)
	}
	defer func() { _ = current.Close() }()
	return current.Equal(h.ns), nil
}

// Do runs f in the namespace, on another thread than the caller's, and waits for it. The thread comes back from the namespace; if it
// can't, it ends, so that nothing else ever runs in the wrong one.
func (h Handle) Do(f func() error) error {
	done := make(chan error)
	go h.visit(f, done)
	return <-done
}

func (h Handle) visit(f func() error, done chan<- error) {
	runtime.LockOSThread()
	if isMain() {
		// The main thread can't end, and /proc/self shows its namespaces. While it is held here, the next goroutine gets another.
		inner := make(chan error)
		go h.visit(f, inner)
		err := <-inner
		runtime.UnlockOSThread()
		done <- err
		return
	}
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		done <- fmt.Errorf("cannot open the current network namespace: %w", err)
		return
	}
	defer func() { _ = home.Close() }()
	if err := netns.Set(h.ns); err != nil {
		runtime.UnlockOSThread()
		done <- fmt.Errorf("cannot enter network namespace %q: %w", h.path, err)
		return
	}
	err = f()
	if netns.Set(home) == nil {
		runtime.UnlockOSThread()
	} // else the runtime ends the locked thread with this goroutine: what f did is done all the same
	done <- err
}

func isMain() bool { return unix.Gettid() == unix.Getpid() }

// Spend runs f in the namespace at path, on a thread that ends afterwards and is never the main one, and waits for it. Its error says
// that f did not run.
func Spend(path string, f func()) error {
	done := make(chan error)
	go spend(path, f, done)
	return <-done
}

func spend(path string, f func(), done chan<- error) {
	runtime.LockOSThread() // and never unlocked, but on the main thread
	if isMain() {
		inner := make(chan error)
		go spend(path, f, inner)
		err := <-inner
		runtime.UnlockOSThread()
		done <- err
		return
	}
	handle, err := Open(path)
	if err != nil {
		done <- err
		return
	}
	defer handle.Close()
	if err := netns.Set(handle.ns); err != nil {
		done <- fmt.Errorf("cannot enter network namespace %q: %w", path, err)
		return
	}
	f()
	done <- nil
}
