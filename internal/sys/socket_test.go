package sys_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/internal/sys"
)

func TestSocketAddressOfALongPath(t *testing.T) {
	for _, dir := range []string{os.TempDir(), filepath.Join(t.TempDir(), strings.Repeat("long", 30))} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Base(t.TempDir())+"-berth.sock")
		address, release, err := sys.SocketAddress(path)
		if err != nil {
			t.Fatal(err)
		}
		if long := len(path) > sys.MaxSocketPath; (address != path) != long {
			t.Errorf("the address of %q is %q", path, address)
		}
		listener, err := net.Listen("unix", address)
		release()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := sys.DialUnix(path)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		listener.(*net.UnixListener).SetUnlinkOnClose(false)
		_ = listener.Close()
		if _, err := sys.DialUnix(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("a socket without a listener: %v", err)
		}
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := sys.SocketAddress("/tmp/" + strings.Repeat("x", 200)); err == nil {
		t.Error("a name that fits in no address was taken")
	}
}
