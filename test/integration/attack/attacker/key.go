package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// findKey looks for a key of whoever started the container, and tells which session keyring this process has.
func findKey(name string) {
	session, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	fmt.Println("session", session, err)
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", name, 0)
	if err != nil {
		return
	}
	content := make([]byte, 64)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, content, 0)
	fmt.Printf("found %q (%v)\n", content[:max(n, 0)], err)
}
