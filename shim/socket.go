package main

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"
)

// socketDir holds the sockets of shims where neither the bundle nor the manager's directory has a short path.
const socketDir = "/run/berth/s"

// maxPrefix leaves room for ".sock" and ".<number>.<kind>" in the 107 bytes of a socket address.
const maxPrefix = 80

// prefix is what the paths of the shim's socket and of its passing files start with. It is in the bundle if that has
// a short path, otherwise under a name that no other container has in the folder "s" beside the manager's socket.
func (inv *invocation) prefix() string {
	if path := filepath.Join(inv.bundle, "shim"); len(path) <= maxPrefix {
		return path
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{inv.address, inv.namespace, inv.id, inv.bundle}, "\x00")))
	name := hex.EncodeToString(sum[:16])
	if path := filepath.Join(filepath.Dir(inv.address), "s", name); filepath.IsAbs(path) && len(path) <= maxPrefix {
		return path
	}
	return filepath.Join(socketDir, name)
}

func (inv *invocation) socket() string { return inv.prefix() + ".sock" }
