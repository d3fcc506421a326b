package unixsocket_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/internal/unixsocket"
)

func TestAddressOfALongPath(t *testing.T) {
	for _, dir := range []string{os.TempDir(), filepath.Join(t.TempDir(), strings.Repeat("long", 30))} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Base(t.TempDir())+"-berth.sock")
		address, release, err := unixsocket.Address(path)
		if err != nil {
			t.Fatal(err)
		}
		if long := len(path) > unixsocket.MaxPath; (address != path) != long {
			t.Errorf("the address of %q is %q", path, address)
		}
		listener, err := net.Listen("unix", address)
		release()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := unixsocket.Dial(path)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		listener.(*net.UnixListener).SetUnlinkOnClose(false)
		_ = listener.Close()
		if _, err := unixsocket.Dial(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("a socket without a listener: %v", err)
		}
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := unixsocket.Address("/tmp/" + strings.Repeat("x", 200)); err == nil {
		t.Error("a name that fits in no address was taken")
	}
}
