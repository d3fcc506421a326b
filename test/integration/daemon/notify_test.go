package daemon_test

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthd/berth/test/testenv"
)

// berthd.service is of Type=notify: systemd kills a daemon that does not say that it is ready. No container may learn
// of systemd's socket.
func TestSystemdIsToldOfReadiness(t *testing.T) {
	testenv.NeedRoot(t)
	path := filepath.Join(testenv.ShortDir(t), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	w := newWorld(t)
	message := make([]byte, 100)
	if err := socket.SetReadDeadline(time.Now().Add(testenv.Patience(10 * time.Second))); err != nil {
		t.Fatal(err)
	}
	n, err := socket.Read(message)
	if err != nil || string(message[:n]) != "READY=1" {
		t.Fatalf("systemd was told %q, %v", message[:n], err)
	}
	spec := w.spec("sh", "-c", `test -z "$NOTIFY_SOCKET" && ! ls -d /run/notify`)
	if id := w.run("plain", spec); w.wait(id) != 0 {
		t.Error("the container knows systemd's socket")
	}
}
