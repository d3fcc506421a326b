package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

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
	id, err := s.newID()
	if err != nil {
		return nil, err
	}
	defer s.made(id)
	snapshot, err := s.graph.Plan(id, info)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare snapshot %q: %w", info.Name, err)
	}
	dir := s.path(id)
	// A directory of this name is left over from before a crash that lost its id.
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("cannot prepare snapshot %q: %w", info.Name, err)
	}
	err = os.Mkdir(dir, 0o711)
	if err == nil {
		err = s.layout.Make(snapshot)
	}
	if err == nil {
		err = s.graph.Insert(snapshot)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot prepare snapshot %q: %w", info.Name, err), os.RemoveAll(dir))
	}
	return s.layout.Mounts(snapshot), nil
}

func (s *Snapshotter) newID() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, errdefs.As(errdefs.ErrUnavailable, errors.New("the snapshotter is closed"))
	}
	s.lastID++
	s.making[s.lastID] = true
	return s.lastID, nil
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

func (s *Snapshotter) commit(c graph.Commit) error {
	snapshot, err := s.graph.Get(c.Key)
	if err == nil && c.Parent != "" && c.Parent != snapshot.Info.Parent && !s.layout.Rebase() {
		err = errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("layout %q cannot put a snapshot on a parent afterwards: not implemented", s.name))
	}
	if err == nil {
		c.Size, c.Inodes, err = s.layout.Usage(snapshot)
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
func (s *Snapshotter) usage(key string) (size, inodes int64, err error) {
	snapshot, err := s.graph.Get(key)
	if err != nil {
		return 0, 0, err
	}
	if snapshot.Info.Kind == snapshotsapi.Kind_COMMITTED {
		return snapshot.Size, snapshot.Inodes, nil
	}
	if size, inodes, err = s.layout.Usage(snapshot); err != nil {
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
	s.remover.Go(func() {
		if err := os.RemoveAll(s.path(id)); err != nil {
			s.log.Warn("cannot remove the directory of a removed snapshot", "snapshot", key, "error", err)
		}
	})
	return nil
}

// Cleanup removes every directory that no snapshot has, and returns when they are gone.
func (s *Snapshotter) Cleanup() error {
	orphans, err := s.orphans()
	if err != nil {
		return fmt.Errorf("cannot look for left-over directories: %w", err)
	}
	var errs []error
	for _, path := range orphans {
		s.log.Info("removing a directory without a snapshot", "path", path)
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

func (s *Snapshotter) orphans() ([]string, error) {
	// The directories are listed before the graph is read: one that gets its snapshot in between is not an orphan. One
	// whose snapshot is still being made is in s.making from before its directory exists.
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for id := range s.making {
		known[strconv.FormatUint(id, 10)] = true
	}
	err = s.graph.Walk(func(snapshot graph.Snapshot) error {
		known[strconv.FormatUint(snapshot.ID, 10)] = true
		return nil
	})
	var orphans []string
	for _, entry := range entries {
		if !known[entry.Name()] {
			orphans = append(orphans, filepath.Join(s.dir, entry.Name()))
		}
	}
	return orphans, err
}

func (s *Snapshotter) path(id uint64) string {
	return filepath.Join(s.dir, strconv.FormatUint(id, 10))
}
