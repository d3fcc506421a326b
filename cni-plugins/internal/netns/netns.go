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

// Do runs f in the namespace and comes back. If coming back fails, the thread stays locked, so that it ends with the
// goroutine and nothing else ever runs in the wrong namespace.
func (h Handle) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("cannot open the current network namespace: %w", err)
	}
	defer func() { _ = home.Close() }()
	if err := netns.Set(h.ns); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("cannot enter network namespace %q: %w", h.path, err)
	}
	err = f()
	if back := netns.Set(home); back != nil {
		return fmt.Errorf("cannot leave network namespace %q: %w", h.path, back)
	}
	runtime.UnlockOSThread()
	return err
}

// Enter moves the calling goroutine's thread into the namespace at path for good. The caller has locked the thread and
// must never unlock it.
func Enter(path string) error {
	handle, err := Open(path)
	if err != nil {
		return err
	}
	defer handle.Close()
	if err := netns.Set(handle.ns); err != nil {
		return fmt.Errorf("cannot enter network namespace %q: %w", path, err)
	}
	return nil
}
