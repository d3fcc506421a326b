package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/snapshotter/graph"
)

// create makes an active snapshot or a view and returns how to mount it. The directory comes first, and exists for
// nobody until the graph knows it.
func (s *Snapshotter) create(info *snapshotsapi.Info) (mounts []*types.Mount, err error) {
	info.CreatedAt = timestamppb.Now()
	info.UpdatedAt = info.CreatedAt
	id, dir, err := s.newDirectory()
	if err != nil {
		return nil, fmt.Errorf("cannot prepare snapshot %q: %w", info.Name, err)
	}
	defer s.made(id)
	snapshot, err := s.graph.Plan(id, info)
	if err == nil {
		err = s.layout.Make(snapshot)
	}
	if err == nil {
		err = s.graph.Insert(snapshot)
	}
	if err != nil {
		s.removeDirectory(dir)
		return nil, fmt.Errorf("cannot prepare snapshot %q: %w", info.Name, err)
	}
	return s.layout.Mounts(snapshot), nil
}

// newDirectory makes an empty directory for a snapshot and returns its id. Names that are taken are skipped: a crash
// that lost an id leaves its directory, and one that can't be removed stays.
func (s *Snapshotter) newDirectory() (id uint64, dir string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, "", errdefs.As(errdefs.ErrUnavailable, errors.New("the snapshotter is closed"))
	}
	for {
		s.lastID++
		dir = s.path(s.lastID)
		err := os.Mkdir(dir, 0o711)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = os.Chmod(dir, 0o711) // whatever the umask is
		}
		if err != nil {
			return 0, "", err
		}
		s.making[s.lastID] = true
		return s.lastID, dir, nil
	}
}

func (s *Snapshotter) made(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.making, id)
}

// mounts tells how to mount an active snapshot or a view.
func (s *Snapshotter) mounts(key string) ([]*types.Mount, error) {
	snapshot, err := s.graph.Get(key)
	if err != nil {
		return nil, fmt.Errorf("cannot mount: %w", err)
	}
	if snapshot.Info.Kind == snapshotsapi.Kind_COMMITTED {
		return nil, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf(
			"cannot mount: snapshot %q is committed; prepare or view one on top of it", key))
	}
	return s.layout.Mounts(snapshot), nil
}

func (s *Snapshotter) commit(ctx context.Context, c graph.Commit) error {
	snapshot, err := s.graph.Get(c.Key)
	if err == nil && c.Parent != "" && c.Parent != snapshot.Info.Parent && !s.layout.Rebase() {
		err = errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("layout %q cannot put a snapshot on a parent afterwards: not implemented", s.name))
	}
	if err == nil {
		c.Size, c.Inodes, err = s.layout.Usage(ctx, snapshot)
	}
	if err == nil {
		err = s.graph.Commit(c)
	}
	if err != nil {
		return fmt.Errorf("cannot commit snapshot %q as %q: %w", c.Key, c.Name, err)
	}
	return nil
}

// usage tells what a snapshot takes on disk, without its parents.
func (s *Snapshotter) usage(ctx context.Context, key string) (size, inodes int64, err error) {
	snapshot, err := s.graph.Get(key)
	if err != nil {
		return 0, 0, err
	}
	if snapshot.Info.Kind == snapshotsapi.Kind_COMMITTED {
		return snapshot.Size, snapshot.Inodes, nil
	}
	if size, inodes, err = s.layout.Usage(ctx, snapshot); err != nil {
		return 0, 0, fmt.Errorf("cannot measure snapshot %q: %w", key, err)
	}
	return size, inodes, nil
}

// remove takes a snapshot out of the graph, which is all that the caller waits for. Its directory goes in the
// background: deleting a large tree takes seconds.
func (s *Snapshotter) remove(key string) error {
	id, err := s.graph.Remove(key)
	if err != nil {
		return fmt.Errorf("cannot remove: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil // Open removes it
	}
	s.remover.Go(func() { s.removeDirectory(s.path(id)) })
	return nil
}
