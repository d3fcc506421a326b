package shim_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthd/berth/test/testenv"
)

// The start is killed at ever later instants, and the next manager has delete clean up at once: there is a shim that
// delete finds, or none.
func TestStartKilledAtAnyInstant(t *testing.T) {
	for delay := time.Duration(0); delay < 16*time.Millisecond; delay += 500 * time.Microsecond {
		t.Run(delay.String(), func(t *testing.T) {
			c := newContainer(t, "true")
			start := c.command("start", "MAX_SHIM_VERSION=3")
			if err := start.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(delay) // an instant, not an event
			_ = start.Process.Kill()
			_ = start.Wait()
			c.deleteVerb()
			c.expectNothingLeft()
		})
	}
}

// A manager that is killed leaves its start running, with nobody to tell the address. The next manager's delete may come
// before it, in the midst of it, or after it.
func TestManagerKilledDuringAStart(t *testing.T) {
	for delay := time.Duration(0); delay < 16*time.Millisecond; delay += 500 * time.Microsecond {
		t.Run(delay.String(), func(t *testing.T) {
			c := newContainer(t, "true")
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			start := c.command("start", "MAX_SHIM_VERSION=3")
			start.Stdout = write
			err = start.Start()
			_ = write.Close()
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(delay) // an instant, not an event
			_ = read.Close()
			c.deleteVerb()
			_ = start.Wait()
			testenv.Until(t, usual, "no shim is left", func() error { return noneOf(t, c.Bundle) })
			c.expectNothingLeft()
		})
	}
}

func TestDeleteWaitsForWhoeverHasTheBundle(t *testing.T) {
	c := newContainer(t, "true")
	bundle, err := os.Open(c.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bundle.Close() }()
	if err := syscall.Flock(int(bundle.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := c.verb("start"); err == nil || !strings.Contains(err.Error(), "another start or delete is under way") {
		t.Errorf("a start in a locked bundle: %v", err)
	}
	deletion := c.command("delete")
	if err := deletion.Start(); err != nil {
		t.Fatal(err)
	}
	waits := fmt.Sprintf("-> FLOCK  ADVISORY  WRITE %d ", deletion.Process.Pid)
	testenv.Until(t, usual, "delete waits for the lock", func() error {
		if locks, err := os.ReadFile("/proc/locks"); err != nil || !strings.Contains(string(locks), waits) {
			return errors.Join(fmt.Errorf("no %q in /proc/locks", waits), err)
		}
		return nil
	})
	if err := bundle.Close(); err != nil {
		t.Fatal(err)
	}
	if err := deletion.Wait(); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// Whoever can't be told the address gets no shim: not one that reads nothing, nor one that has no space for it.
func TestStartWithoutAReader(t *testing.T) {
	c := newContainer(t, "true")
	read, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = read.Close()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for stdout, want := range map[*os.File]string{pipe: "nobody reads its address", full: "no space left on device"} {
		start := c.command("start")
		var stderr bytes.Buffer
		start.Stdout, start.Stderr = stdout, &stderr
		if err := start.Run(); err == nil || !strings.Contains(stderr.String(), want) {
			t.Errorf("start: %v, %s", err, &stderr)
		}
		_ = stdout.Close()
		testenv.Until(t, usual, "no shim is left", func() error { return noneOf(t, c.Bundle) })
		if _, err := os.Lstat(c.Bundle + "/shim.sock"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there, %v", err)
		}
	}
}

// noneOf tells of the first process that has the path in its command line.
func noneOf(t testing.TB, path string) error {
	t.Helper()
	if left := testenv.Processes(t, path); len(left) > 0 {
		return errors.New(left[0].String())
	}
	return nil
}

// A container that is started again gets a new shim in the same bundle, while the one before is still about to end.
func TestAnotherShimRightAfterShutdown(t *testing.T) {
	c := newContainer(t, "true")
	for range 5 {
		c.create(streams{})
		c.run("")
		c.expectExit("", 0)
		c.delete("")
		c.shutdown()
		before := c.pid
		c.start()
		testenv.Until(t, usual, "the shim before has ended", func() error {
			if !zombie(before) {
				return errors.New("it has not")
			}
			return nil
		})
		if c.pid == before {
			t.Fatal("it is the same shim")
		}
		for _, name := range []string{"shim.sock", "shim.pid"} {
			if _, err := os.Lstat(filepath.Join(c.Bundle, name)); err != nil {
				t.Errorf("the new shim cannot be found: %v", err)
			}
		}
		c.shutdown()
		testenv.Until(t, usual, "the shim has ended", func() error { return noneOf(t, c.Bundle) })
	}
}
