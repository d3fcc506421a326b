package main

import (
	"encoding/hex"
	"hash/fnv"
	"io"
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
	// No cryptographic hash: package crypto brings 32 MiB of empty memory along, of which the kernel may make huge pages.
	sum := fnv.New128a()
	_, _ = io.WriteString(sum, strings.Join([]string{inv.address, inv.namespace, inv.id, inv.bundle}, "\x00"))
	name := hex.EncodeToString(sum.Sum(nil))
	if path := filepath.Join(filepath.Dir(inv.address), "s", name); filepath.IsAbs(path) && len(path) <= maxPrefix {
		return path
	}
	return filepath.Join(socketDir, name)
}

func (inv *invocation) socket() string { return inv.prefix() + ".sock" }
