package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// Sockets of shims and of streams are below the state directory, also where their paths are longer than an address of a
// socket can be, and go with their container, however its shim has ended.
func TestSocketsAreBelowTheState(t *testing.T) {
	const length = 200 // of the state directory: an address of a socket has 107 bytes at most
	state := testenv.ShortDir(t)
	state = filepath.Join(state, strings.Repeat("s", length-len(state)-1))
	w := newWorld(t, "--state", state)
	spec := w.sleeper()
	spec.Process.Stdin, spec.Process.Tty = true, true
	id := w.run("long", spec)
	w.untilLogged(id, "ready")
	if output, code := w.exec(id, "echo", "hello"); output != "hello\n" || code != 0 {
		t.Errorf("exec: %q, status %d", output, code)
	}
	for _, name := range []string{"shim.sock", "streams"} {
		if info, err := os.Lstat(filepath.Join(state, "bundles", id, name)); err != nil || info.Mode().Type() != os.ModeSocket {
			t.Errorf("socket %s: %v, %v", name, info, err)
		}
	}
	w.Kill()
	w.Start() // reaches the shim again
	if output, code := w.exec(id, "echo", "again"); output != "again\n" || code != 0 {
		t.Errorf("exec: %q, status %d", output, code)
	}
	var shim int
	for _, process := range testenv.Processes(t, "containerd-shim-berth-v2", id) {
		shim = process.Pid
	}
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil || shim == 0 {
		t.Fatalf("shim %d: %v", shim, err)
	}
	if code := w.wait(id); code != 137 {
		t.Errorf("exit code %d", code)
	}
	w.remove(id)
	for _, dir := range []string{state, filepath.Join(state, "bundles"), filepath.Dir(strings.TrimPrefix(w.Host, "unix://"))} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			path := filepath.Join(dir, entry.Name())
			if entry.Type() == os.ModeSocket && "unix://"+path != w.Host {
				t.Errorf("left socket %s", path)
			}
			if filepath.Base(dir) == "bundles" {
				t.Errorf("left %s", path)
			}
		}
	}
}
