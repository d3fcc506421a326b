package unpack

import (
	"strings"
	"time"

	"github.com/berthd/berth/manager/blobs"
)

// The labels of snapshots. A layer can be several daemons', a container's only one's:
//
//	dev.berth/daemon.<ID>        since when the snapshot is that daemon's
//	containerd.io/gc.root        keeps a containerd, if it is the snapshotter, from collecting it
//	containerd.io/snapshot.ref   the chain ID that a layer is to have: a containerd answers AlreadyExists if it is there
const (
	ownerPrefix = "dev.berth/daemon."
	targetLabel = "containerd.io/snapshot.ref"
)

// OwnerLabel is the label of a snapshot that belongs to the daemon with an ID.
func OwnerLabel(daemon string) string { return ownerPrefix + daemon }

// OthersOwn tells whether a snapshot with these labels belongs to another daemon, too.
func OthersOwn(labels map[string]string, daemon string) bool {
	for key := range labels {
		if strings.HasPrefix(key, ownerPrefix) && key != OwnerLabel(daemon) {
			return true
		}
	}
	return false
}

func ownedBy(daemon string) map[string]string {
	now := time.Now().UTC().Format(time.RFC3339)
	return map[string]string{OwnerLabel(daemon): now, blobs.RootLabel: now}
}

func withTarget(labels map[string]string, chainID string) map[string]string {
	labels[targetLabel] = chainID
	return labels
}
