package shim_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// maxPrivate is what a shim with an idle container may have for itself alone.
const maxPrivate = 2560 << 10

// private returns the memory that would be free without the process, in bytes.
func private(t testing.TB, pid int) (sum int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var kib int
		key, rest, _ := strings.Cut(line, ":")
		if key != "Private_Clean" && key != "Private_Dirty" {
			continue
		}
		if _, err := fmt.Sscanf(strings.TrimSpace(rest), "%d kB", &kib); err != nil {
			t.Fatal(err)
		}
		sum += kib << 10
	}
	return sum
}

func TestMemoryOfAnIdleContainer(t *testing.T) {
	var shims []*container
	for range 2 { // what two share, a third gets for nothing
		c := newContainer(t, "sleep", "1000")
		path, uri := c.streamURI("io.sock", nil)
		c.create(streams{stdout: uri, stderr: uri})
		a := attach(t, path)
		c.run("")
		for range 10 {
			out, uri := c.streamURI("exec.sock", nil)
			c.exec("x", streams{stdout: uri}, "head", "-c", "1000000", "/dev/zero")
			b := attach(t, out)
			c.run("x")
			if got := len(b.rest()[1]); got != 1000000 {
				t.Errorf("%d bytes of output", got)
			}
			c.expectExit("x", 0)
			c.delete("x")
		}
		if err := a.conn.Close(); err != nil {
			t.Fatal(err)
		}
		shims = append(shims, c)
	}
	for _, c := range shims {
		testenv.Until(t, usual, "the shim has given back what it does not need", func() error {
			if got := private(t, c.pid); got > maxPrivate {
				return fmt.Errorf("%d KiB are private, want at most %d", got>>10, maxPrivate>>10)
			}
			return nil
		})
		t.Logf("%d KiB private", private(t, c.pid)>>10)
	}
}

// TestEnvironmentOfTheRuntime: what makes the shim itself small isn't handed on, nor what the manager was told so.
func TestEnvironmentOfTheRuntime(t *testing.T) {
	c := newContainer(t, "true")
	file, _ := c.file("environment")
	wrapper, _ := c.file("wrapper")
	script := fmt.Sprintf("#!/bin/sh\nenv > %s\nexec %s \"$@\"\n", file, testenv.Binary(t, "berth-runtime"))
	if err := os.WriteFile(wrapper, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	c.runtime = wrapper
	c.Env = append(c.Env, "GOMAXPROCS=2", "NOTIFY_SOCKET=/nowhere", "KEPT=yes")
	c.create(streams{})
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(got), "KEPT=yes\n") {
		t.Errorf("the runtime has %q", got)
	}
	for _, name := range []string{"GOMAXPROCS=", "GODEBUG=", "NOTIFY_SOCKET="} {
		if strings.Contains(string(got), name) {
			t.Errorf("the runtime has %s in %q", name, got)
		}
	}
}
