package main

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"
)

// socketDir holds the sockets of shims whose bundle has too long a path for a socket address.
const socketDir = "/run/berth/s"

// maxPrefix leaves room for ".sock" and ".<number>.<kind>" in the 107 bytes of a socket address.
const maxPrefix = 80

// prefix is what the paths of the shim's socket and of its passing files start with: in the bundle if that is short
// enough, otherwise in socketDir under a name that no other container has.
func (inv *invocation) prefix() string {
	if path := filepath.Join(inv.bundle, "shim"); len(path) <= maxPrefix {
		return path
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{inv.address, inv.namespace, inv.id, inv.bundle}, "\x00")))
	return filepath.Join(socketDir, hex.EncodeToString(sum[:16]))
}

func (inv *invocation) socket() string { return inv.prefix() + ".sock" }
