package graph

import (
	"fmt"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/dbroom"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/labels"
)

// Commit says what becomes of the active snapshot Key.
type Commit struct {
	// Key is the name of the active snapshot, Name the one that it has once it is committed.
	Key, Name string
	// Parent, if not empty, is what the committed snapshot stands on. A snapshot that was prepared on something has to
	// name just that.
	Parent string
	// Labels replace those of the active snapshot.
	Labels map[string]string
	// Size and Inodes are what it takes on disk.
	Size, Inodes int64
}

// Commit turns an active snapshot into a committed one.
func (g *Graph) Commit(c Commit) error {
	if err := checkName("name", c.Name); err != nil {
		return err
	}
	if err := labels.Check(c.Labels); err != nil {
		return err
	}
	return dbroom.Update(g.db, func(tx *bbolt.Tx) error {
		s, err := get(tx, c.Key)
		if err != nil {
			return err
		}
		if s.Info.Kind != snapshotsapi.Kind_ACTIVE {
			return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("snapshot %q is not active", c.Key))
		}
		if tx.Bucket(bucketSnapshots).Get([]byte(c.Name)) != nil {
			return exists(c.Name)
		}
		if err := drop(tx, s); err != nil {
			return err
		}
		if c.Parent != "" && c.Parent != s.Info.Parent {
			if err := rebase(tx, &s, c.Parent); err != nil {
				return err
			}
		}
		s.Info.Name, s.Info.Kind, s.Info.Labels = c.Name, snapshotsapi.Kind_COMMITTED, c.Labels
		s.Info.CreatedAt = timestamppb.Now()
		s.Info.UpdatedAt = s.Info.CreatedAt
		s.Size, s.Inodes = c.Size, c.Inodes
		return put(tx, s)
	})
}

// rebase puts a snapshot that was prepared on nothing onto a parent.
func rebase(tx *bbolt.Tx, s *Snapshot, parent string) error {
	if s.Info.Parent != "" {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf(
			"snapshot %q was prepared on %q and cannot be committed on %q", s.Info.Name, s.Info.Parent, parent))
	}
	if _, err := parentsOf(tx, parent); err != nil {
		return err
	}
	s.Info.Parent = parent
	return nil
}
