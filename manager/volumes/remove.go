package volumes

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/panics"
	"github.com/berthd/berth/internal/tree"
)

const removingPrefix = ".removing-"

// gravePrefix begins the name of the directory that a removed volume is renamed to. It has the volume's name in it, hashed: a name and
// more would not fit into a file name.
func gravePrefix(name string) string {
	sum := sha256.Sum256([]byte(name))
	return removingPrefix + hex.EncodeToString(sum[:16]) + "-"
}

// Remove deletes a volume and its content. With force it is no error if there is none.
func (s *Service) Remove(ctx context.Context, name string, force bool) error {
	unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	r := s.get(name)
	switch {
	case r == nil && force:
		unlock()
		return nil
	case r == nil:
		unlock()
		return noSuchVolume(name)
	case len(r.Users) > 0:
		unlock()
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot remove volume %q: container %.12s uses it", name, r.Users[0]))
	}
	return s.removeAndUnlock(r, unlock)
}

// removeAndUnlock takes a volume's name away at once, lets go of the name, and then deletes the content.
func (s *Service) removeAndUnlock(r *record, unlock func()) error {
	grave, err := s.takeAway(r)
	unlock()
	if err != nil {
		return err
	}
	s.cfg.Logger.Info("volume removed", "volume", r.Name)
	s.publish("destroy", r.Name, nil)
	s.discard(grave)
	return nil
}

// bury is removeAndUnlock for a volume whose name stays locked, and that no client has seen.
func (s *Service) bury(r *record) error {
	grave, err := s.takeAway(r)
	if err != nil {
		return err
	}
	s.discard(grave)
	return nil
}

// takeAway renames a volume's directory and forgets the volume. If berthd is killed between the two, the next one forgets it:
// see wasBeingRemoved.
func (s *Service) takeAway(r *record) (grave string, err error) {
	grave = filepath.Join(s.cfg.Dir, gravePrefix(r.Name)+rand.Text())
	if err := os.Rename(filepath.Join(s.cfg.Dir, r.Name), grave); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot remove volume %q: %w", r.Name, err)
	}
	return grave, s.forget(r)
}

func (s *Service) forget(r *record) error {
	if err := s.table.Delete(r.Name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.volumes, r.Name)
	return nil
}

// discard deletes what was a volume. What can't be deleted (a file system that fails, a file that the kernel holds) is logged and
// tried again by the next berthd; nothing waits for it.
func (s *Service) discard(grave string) {
	// Without a deadline: a volume may be large, and no lock is held.
	if err := tree.Remove(context.Background(), grave); err != nil {
		s.cfg.Logger.Warn("the content of a removed volume is left", "directory", grave, "error", err)
	}
}

// recover finishes or undoes what a crash cut off. One volume in disorder keeps neither berthd nor other volumes from working: it is
// logged, and put in order when it is used.
func (s *Service) recover() error {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("cannot list the directories of volumes: %w", err)
	}
	var graves []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), removingPrefix) {
			graves = append(graves, entry.Name())
		}
	}
	for _, r := range s.records() {
		if err := s.recoverOne(r, graves); err != nil {
			s.cfg.Logger.Error("cannot bring a volume in order", "volume", r.Name, "error", err)
		}
	}
	// Nothing waits for it, as it may take long: the end of berthd cuts it off, and the next one goes on.
	go func() {
		defer panics.Recover(s.cfg.Logger, "the deletion of removed volumes", nil)
		for _, grave := range graves {
			s.discard(filepath.Join(s.cfg.Dir, grave))
		}
	}()
	return nil
}

func (s *Service) recoverOne(r *record, graves []string) error {
	if r.Pending && len(r.Users) == 0 {
		return s.bury(r)
	}
	if s.wasBeingRemoved(r, graves) {
		return s.forget(r)
	}
	if err := s.makeDirectory(r.Name); err != nil {
		return err
	}
	_, err := s.emptyHalfPopulated(r)
	return err
}

// wasBeingRemoved tells whether takeAway renamed the volume's directory and did no more.
func (s *Service) wasBeingRemoved(r *record, graves []string) bool {
	if _, err := os.Lstat(filepath.Join(s.cfg.Dir, r.Name)); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	for _, grave := range graves {
		if strings.HasPrefix(grave, gravePrefix(r.Name)) {
			return true
		}
	}
	return false
}
