package stdio

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestHubClosesAmongClients: a client that connects while the hub closes, and stays, is not waited for.
func TestHubClosesAmongClients(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 200 {
		h, err := listen("stream://" + path)
		if err != nil {
			t.Fatal(err)
		}
		h.begin()
		dialled := make(chan []net.Conn)
		go func() {
			var conns []net.Conn
			defer func() { dialled <- conns }()
			for {
				conn, err := net.Dial("unix", path)
				if err != nil {
					return
				}
				conns = append(conns, conn)
			}
		}()
		closed := make(chan error, 1)
		go func() { closed <- h.close() }()
		select {
		case err := <-closed:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the hub waits for a client")
		}
		for _, conn := range <-dialled {
			_ = conn.Close()
		}
	}
}
