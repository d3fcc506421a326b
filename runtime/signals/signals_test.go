package signals

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Signals that come to threads which are busy with Go's own work are all counted, and disturb nobody.
func TestCatch(t *testing.T) {
	caught, err := Catch(unix.SIGUSR1, unix.SIGWINCH, unix.Signal(40))
	if err != nil {
		t.Fatal(err)
	}
	if number, ok := caught.Next(); ok {
		t.Fatalf("signal %d has come before one was sent", number)
	}
	var busy sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = append([]byte(nil), make([]byte, 4096)...) // garbage, and stacks that move
				}
			}
		})
	}
	want := []unix.Signal{unix.SIGUSR1, unix.SIGWINCH, unix.Signal(40)}
	for range 1000 {
		for _, number := range want {
			if err := unix.Kill(unix.Getpid(), number); err != nil {
				t.Fatal(err)
			}
			ready := []unix.PollFd{{Fd: int32(caught.FD()), Events: unix.POLLIN}}
			for n := 0; n != 1; {
				if n, err = unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) {
					t.Fatal(err)
				}
			}
			if got, ok := caught.Next(); !ok || !slices.Contains(want, got) {
				t.Fatalf("got signal %d, %v after %d was sent", got, ok, number)
			}
		}
	}
	close(stop)
	busy.Wait()
}
