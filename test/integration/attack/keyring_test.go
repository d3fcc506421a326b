package attack_test

import (
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// withKey does something on a thread whose session keyring has a key, as that of an administrator who has logged in.
func withKey(t *testing.T, name string, act func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its keyring
		_, err := unix.KeyctlJoinSessionKeyring("berth-attack")
		if err == nil {
			_, err = unix.AddKey("user", name, []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING)
		}
		if err == nil {
			act()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestKeysOfTheCaller: keys belong to a session, and a process that comes into the container has left that of whoever
// has sent it there. All processes of a container are in one.
func TestKeysOfTheCaller(t *testing.T) {
	const name = "berth-attack-key"
	look := []string{"/attacker", "key", name}
	withKey(t, name, func() {
		c := newContainer(t).capable().attacker(look[1:]...)
		r := c.run()
		if r.Status != 0 || strings.Contains(r.Stdout, "found") || !strings.Contains(r.Stdout, "session") {
			t.Errorf("run: %+v", r)
		}
		script := strings.Join(look, " ") + " > /session"
		c.shell(script+"; exec sleep 1000").hook("/bin/sh", "-c", script+"-of-hook").start()
		r = c.must(append([]string{"exec", c.ID}, look...)...)
		if strings.Contains(r.Stdout, "found") {
			t.Errorf("exec: %+v", r)
		}
		for _, file := range []string{"/session", "/session-of-hook"} {
			if other := c.must("exec", c.ID, "sh", "-c", "until test -s "+file+"; do :; done; cat "+file).Stdout; other != r.Stdout {
				t.Errorf("exec has %q, and %s has %q", r.Stdout, file, other)
			}
		}
	})
}
