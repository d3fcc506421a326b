package main

import (
	"encoding/hex"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/internal/unixsocket"
)

// prefix is what the paths of the shim's passing files start with. They are gone with the bundle, whoever leaves them.
func (inv *invocation) prefix() string { return filepath.Join(inv.bundle, filePrefix) }

// filePrefix is what the names of the shim's files in a bundle start with.
const filePrefix = "shim"

// sockets returns where the shim may listen, the best first: where the manager says, as berthd does; in the bundle, which
// takes the socket with it; or where managers that need a short address expect no others, as containerd's shims do it.
func (inv *invocation) sockets() []string {
	if inv.listen != "" {
		return []string{inv.listen}
	}
	if path := inv.prefix() + ".sock"; len(path) <= unixsocket.MaxPath {
		return []string{path}
	}
	// No cryptographic hash: package crypto brings 32 MiB of empty memory along, of which the kernel may make huge pages.
	sum := fnv.New128a()
	_, _ = io.WriteString(sum, strings.Join([]string{inv.address, inv.namespace, inv.id, inv.bundle}, "\x00"))
	name := hex.EncodeToString(sum.Sum(nil)) + ".sock"
	var paths []string
	if path := filepath.Join(filepath.Dir(inv.address), "s", name); filepath.IsAbs(path) && len(path) <= unixsocket.MaxPath {
		paths = append(paths, path)
	}
	return append(paths, filepath.Join(containerdSockets, name))
}

// containerdSockets holds the sockets of containerd's own shims, whatever containerd's state directory is.
const containerdSockets = "/run/containerd/s"

// removeSockets removes whatever leads to the shim.
func (inv *invocation) removeSockets() {
	for _, path := range inv.sockets() {
		_ = os.Remove(path)
	}
}
