package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"

	"github.com/berthd/berth/internal/tree"
	"github.com/berthd/berth/snapshotter/graph"
)

// Cleanup removes every directory that no snapshot has, and returns when they are gone. What can't be removed is logged
// and tried again by the next Cleanup, and by Open.
func (s *Snapshotter) Cleanup() error {
	orphans, err := s.orphans()
	if err != nil {
		return fmt.Errorf("cannot look for left-over directories: %w", err)
	}
	s.removeOrphans(orphans)
	return nil
}

func (s *Snapshotter) removeOrphans(paths []string) {
	for _, path := range paths {
		s.log.Info("removing a directory without a snapshot", "path", path)
		s.removeDirectory(path)
	}
}

// removeDirectory removes the directory of a snapshot that does not exist any more, or not yet. A directory that another
// goroutine is removing is waited for.
func (s *Snapshotter) removeDirectory(path string) {
	s.mu.Lock()
	other := s.removing[path]
	done := make(chan struct{})
	if other == nil {
		s.removing[path] = done
	}
	s.mu.Unlock()
	if other != nil {
		<-other
		return
	}
	err := tree.Remove(s.alive, path)
	s.mu.Lock()
	delete(s.removing, path)
	close(done)
	s.mu.Unlock()
	if err != nil && !errors.Is(err, context.Canceled) {
		s.log.Warn("the directory of a removed snapshot is left; it is removed by a later cleanup", "error", err)
	}
}

// orphans returns the directories that no snapshot has.
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
	unknown := 0
	err = s.graph.Walk(func(snapshot graph.Snapshot, err error) {
		if err != nil {
			s.log.Error("a snapshot can't be read", "error", err)
		}
		if snapshot.ID == 0 {
			unknown++
		}
		known[strconv.FormatUint(snapshot.ID, 10)] = true
	})
	if err != nil {
		return nil, err
	}
	var orphans []string
	for _, entry := range entries {
		if known[entry.Name()] {
			continue
		}
		if _, numeric := snapshotID(entry.Name()); numeric && unknown > 0 {
			continue // it may be the directory of a snapshot whose record does not tell its id
		}
		orphans = append(orphans, filepath.Join(s.dir, entry.Name()))
	}
	return orphans, nil
}

// restore makes the directories of active snapshots and views that a power failure took: their records are synced when
// they are made, their directories are not, because that would cost each start of a container a write to the disk. A
// committed snapshot is on disk before it is committed.
func (s *Snapshotter) restore() error {
	var snapshots []string
	err := s.graph.Walk(func(snapshot graph.Snapshot, err error) {
		if err != nil || snapshot.Info.Kind == snapshotsapi.Kind_COMMITTED {
			return
		}
		if _, err := os.Lstat(s.path(snapshot.ID)); errors.Is(err, fs.ErrNotExist) || err == nil && !s.layout.Complete(snapshot) {
			snapshots = append(snapshots, snapshot.Info.Name)
		}
	})
	for _, name := range snapshots {
		if err := s.restoreOne(name); err != nil {
			s.log.Error("the files of a snapshot are lost", "snapshot", name, "error", err)
			continue
		}
		s.log.Warn("the files of a snapshot were lost; it is empty", "snapshot", name)
	}
	return err
}

func (s *Snapshotter) restoreOne(name string) error {
	snapshot, err := s.graph.Get(name) // with its parents, which Walk leaves out
	if err != nil {
		return err
	}
	if err := os.Mkdir(s.path(snapshot.ID), 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.layout.Make(snapshot)
}

// highestID returns the highest id that a directory or a snapshot has.
func (s *Snapshotter) highestID() (uint64, error) {
	highest, err := s.graph.LastID()
	if err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(s.dir)
	for _, entry := range entries {
		if id, numeric := snapshotID(entry.Name()); numeric {
			highest = max(highest, id)
		}
	}
	return highest, err
}

// snapshotID returns the id that a directory's name is.
func snapshotID(name string) (uint64, bool) {
	id, err := strconv.ParseUint(name, 10, 63)
	return id, err == nil && strconv.FormatUint(id, 10) == name
}

func (s *Snapshotter) path(id uint64) string {
	return filepath.Join(s.dir, strconv.FormatUint(id, 10))
}
