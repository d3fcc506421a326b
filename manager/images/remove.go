package images

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/berthd/berth/internal/errdefs"
)

// Removed is what Remove did.
type Removed struct {
	// Untagged are the names, Deleted the IDs of images and layers that are gone.
	Untagged, Deleted []string
}

// Remove takes a name from an image, and with the last one removes the image, as docker's rmi does: an ID stands for
// all names of one repository; force allows for several, and for containers that use the image but do not run.
func (s *Service) Remove(ctx context.Context, ref string, force bool) (Removed, error) {
	f, err := s.index.find(ref)
	if err != nil {
		return Removed{}, err
	}
	containers, running := s.inUse(ctx, f.record.ID)
	var removed Removed
	err = s.index.update(f.record.ID, func(r *record) (*record, error) {
		removed = Removed{}
		lost, err := lostNames(r, f.name, force)
		if err != nil {
			return nil, fmt.Errorf("cannot remove image %q: %w", ref, err)
		}
		next := r.with(func(names map[string]name) {
			for _, n := range lost {
				delete(names, n)
				removed.Untagged = append(removed.Untagged, n)
			}
		})
		if len(next.Names) > 0 {
			return next, nil
		}
		if err := inUseError(ref, containers, running, force); err != nil {
			return nil, err
		}
		removed.Deleted = append(removed.Deleted, r.ID)
		return nil, nil
	})
	if err != nil {
		return Removed{}, err
	}
	s.cfg.Logger.Info("image removed", "image", ref, "id", f.record.ID, "untagged", len(removed.Untagged), "deleted", len(removed.Deleted) > 0)
	if len(removed.Deleted) == 0 {
		return removed, nil
	}
	s.collectLater(ctx)
	return removed, nil
}

// lostNames are those that go: of an ID all, of a tag itself, and with the last tag of a repository its digests.
func lostNames(r *record, asked string, force bool) ([]string, error) {
	if asked == "" {
		if several := repositories(r); len(several) > 1 && !force {
			return nil, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf(
				"it has several names (%s): remove each, or use force", strings.Join(familiar(r.tags()), ", ")))
		}
		return append(r.tags(), r.digests()...), nil
	}
	if _, there := r.Names[asked]; !there {
		return nil, errdefs.As(errdefs.ErrNotFound, fmt.Errorf("the name has been removed meanwhile"))
	}
	lost := []string{asked}
	repository := repositoryOf(asked)
	sameRepository := func(n string) bool { return n != asked && repositoryOf(n) == repository }
	if !isDigested(asked) && !slices.ContainsFunc(r.tags(), sameRepository) {
		for _, n := range r.digests() {
			if sameRepository(n) {
				lost = append(lost, n)
			}
		}
	}
	return lost, nil
}

// repositories are what an ID must be unambiguous about: the tags, and repositories known by digest only.
func repositories(r *record) []string {
	names := r.tags()
	for _, d := range r.digests() {
		if !slices.ContainsFunc(names, func(n string) bool { return repositoryOf(n) == repositoryOf(d) }) {
			names = append(names, d)
		}
	}
	return names
}

func repositoryOf(full string) string {
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return full
	}
	return named.Name()
}

func familiar(names []string) []string {
	short := make([]string, len(names))
	for i, n := range names {
		short[i] = n
		if named, err := reference.ParseNormalizedNamed(n); err == nil {
			short[i] = reference.FamiliarString(named)
		}
	}
	return short
}

func inUseError(ref string, containers []string, running, force bool) error {
	if len(containers) == 0 || force && !running {
		return nil
	}
	users := make([]string, len(containers))
	for i, id := range containers {
		users[i] = short(id)
	}
	advice := "remove them first, or use force"
	if running {
		advice = "not all have exited: stop and remove them first"
	}
	return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf(
		"cannot remove image %q: containers use it (%s): %s", ref, strings.Join(users, ", "), advice))
}
