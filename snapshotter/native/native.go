// Package native lays snapshots out as full copies, for kernels and file systems on which overlayfs does not work: each
// snapshot has a directory <id>/fs with its whole tree.
package native

import (
	"context"
	"os"
	"path/filepath"
	"strconv"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"

	"github.com/berthd/berth/internal/tree"
	"github.com/berthd/berth/snapshotter/graph"
)

// Layout implements snapshotter's layout over the directories in Dir.
type Layout struct {
	dir string
}

// New returns the layout for the snapshot directories below dir.
func New(dir string) *Layout { return &Layout{dir: dir} }

// Make copies the parent's tree, or makes an empty one. A view needs no copy: it shows its parent.
func (l *Layout) Make(s graph.Snapshot) error {
	if l.Complete(s) {
		return nil
	}
	if len(s.Parents) == 0 {
		if err := os.Mkdir(l.path(s.ID), 0o755); err != nil {
			return err
		}
		return os.Chmod(l.path(s.ID), 0o755) // whatever the umask is
	}
	return copyTree(l.path(s.Parents[0]), l.path(s.ID))
}

// Complete says whether the tree of a snapshot is there, if it needs one.
func (l *Layout) Complete(s graph.Snapshot) bool {
	if s.Info.Kind == snapshotsapi.Kind_VIEW && s.Info.Parent != "" {
		return true
	}
	_, err := os.Stat(l.path(s.ID))
	return err == nil
}

// Mounts returns one bind mount of the tree.
func (l *Layout) Mounts(s graph.Snapshot) []*types.Mount {
	id, access := s.ID, "rw"
	if s.Info.Kind == snapshotsapi.Kind_VIEW {
		access = "ro"
		if len(s.Parents) > 0 {
			id = s.Parents[0]
		}
	}
	return []*types.Mount{{Type: "bind", Source: l.path(id), Options: []string{access, "rbind"}}}
}

// Usage measures the whole tree, because all of it is a copy.
func (l *Layout) Usage(ctx context.Context, s graph.Snapshot) (size, inodes int64, err error) {
	if s.Info.Kind == snapshotsapi.Kind_VIEW {
		return 0, 0, nil
	}
	return tree.Usage(ctx, l.path(s.ID))
}

// Rebase is false: a tree that was made without its parent lacks what the parent has.
func (l *Layout) Rebase() bool { return false }

func (l *Layout) path(id uint64) string {
	return filepath.Join(l.dir, strconv.FormatUint(id, 10), "fs")
}
