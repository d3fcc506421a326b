package systemd

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConversationEnds: a manager that talks of other things all the time does not put the deadline off.
func TestConversationEnds(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for ticker := time.NewTicker(time.Millisecond); ; {
			select {
			case <-stop:
				ticker.Stop()
				return
			case <-ticker.C:
				_, _ = unix.Write(ends[1], []byte{0})
			}
		}
	}()
	defer func() {
		close(stop)
		<-stopped
		_, _ = unix.Close(ends[0]), unix.Close(ends[1])
	}()
	conn := connection{ends[0], time.Now().Add(100 * time.Millisecond)}
	buffer := make([]byte, 1)
	for limit := time.Now().Add(10 * time.Second); ; {
		if _, err := conn.Read(buffer); err != nil {
			return
		}
		if time.Now().After(limit) {
			t.Fatal("reading goes on behind the deadline")
		}
	}
}
