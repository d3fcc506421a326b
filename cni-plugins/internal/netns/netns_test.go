package netns

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Functions run in the namespace, never on the main thread, which could not end in it, and leave their caller's thread where it is.
func TestNeverOnTheMainThread(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	opened := make(chan Handle)
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			var handle Handle
			if handle, err = Open("/proc/thread-self/ns/net"); err == nil {
				opened <- handle
				return
			}
		}
		failed <- err
	}()
	var inside Handle
	select {
	case inside = <-opened:
	case err := <-failed:
		t.Fatal(err)
	}
	defer inside.Close()
	path := "/proc/self/fd/" + strconv.Itoa(inside.Fd())
	check := func() error {
		if unix.Gettid() == unix.Getpid() {
			return errors.New("it runs on the main thread")
		}
		current, err := inside.IsCurrent()
		if err == nil && !current {
			err = errors.New("it runs in another namespace")
		}
		return err
	}
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if err := inside.Do(check); err != nil {
				t.Error("Do: ", err)
			}
			var err error
			if entered := Spend(path, func() { err = check() }); entered != nil || err != nil {
				t.Error("Spend: ", entered, err)
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if current, err := inside.IsCurrent(); current || err != nil {
				t.Errorf("the caller is in the namespace, %v", err)
			}
		})
	}
	all.Wait()
}
