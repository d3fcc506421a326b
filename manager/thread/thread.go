// Package thread runs code that changes properties of its operating system thread, such as namespaces.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Spend calls fn on a thread that ends afterwards, so that whatever fn did to it is gone. It is never the main thread,
// which can't end, and whose namespaces /proc/self shows as those of the whole process.
func Spend(fn func() error) error {
	done := make(chan error)
	go spend(fn, done)
	return <-done
}

func spend(fn func() error, done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		done <- fn()
		return // still locked: the runtime ends the thread
	}
	// While this goroutine holds the main thread, the next one gets another.
	defer runtime.UnlockOSThread()
	inner := make(chan error)
	go spend(fn, inner)
	done <- <-inner
}
