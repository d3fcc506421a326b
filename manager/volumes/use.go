package volumes

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Use records that a container uses a volume, made now if it is not there, and returns its directory.
func (s *Service) Use(ctx context.Context, name, containerID string) (hostPath string, err error) {
	if !volumeName.MatchString(name) {
		return "", invalid("the volume name %q is not valid: want letters, digits, '_', '.' and '-', at most 255; a directory of the host begins with a slash", name)
	}
	unlock, err := s.lock(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	r, err := s.create(&record{Name: name, CreatedAt: time.Now().UTC()})
	if err != nil {
		return "", err
	}
	if r, err = s.emptyHalfPopulated(r); err != nil {
		return "", err
	}
	if slices.Contains(r.Users, containerID) {
		return s.data(name), nil
	}
	used := *r
	used.Pending = false
	used.Users = append(slices.Clone(r.Users), containerID)
	return s.data(name), s.put(&used)
}

// Release undoes each Use of a container. With anonymous, its anonymous volumes that nothing else uses are removed. It waits for
// no volume but the container's own.
func (s *Service) Release(ctx context.Context, containerID string, anonymous bool) error {
	var errs []error
	for _, name := range s.usedBy(func(id string) bool { return id == containerID }) {
		errs = append(errs, s.release(ctx, name, func(id string) bool { return id == containerID }, anonymous))
	}
	return errors.Join(errs...)
}

// Reconcile forgets users that are none of the containers: berthd was killed, or the host lost power, before Release. No volume is
// removed for it, as nothing tells whether the container was to be removed with its volumes.
func (s *Service) Reconcile(ctx context.Context, containers []string) error {
	known := map[string]bool{}
	for _, id := range containers {
		known[id] = true
	}
	gone := func(id string) bool { return !known[id] }
	var errs []error
	for _, name := range s.usedBy(gone) {
		errs = append(errs, s.release(ctx, name, gone, false))
	}
	return errors.Join(errs...)
}

// TellMounted tells subscribers of events that a container with volumes among its mounts has started.
func (s *Service) TellMounted(containerID string, mounts []*berthv1.MountState) {
	for _, mount := range mounts {
		if mount.GetVolume() != "" {
			s.publish("mount", mount.GetVolume(), map[string]string{
				"container": containerID, "destination": mount.GetMount().GetTarget(), "read/write": strconv.FormatBool(!mount.GetMount().GetReadOnly()),
			})
		}
	}
}

// TellUnmounted tells subscribers of events that such a container has ended.
func (s *Service) TellUnmounted(containerID string, mounts []*berthv1.MountState) {
	for _, mount := range mounts {
		if mount.GetVolume() != "" {
			s.publish("unmount", mount.GetVolume(), map[string]string{"container": containerID})
		}
	}
}

// usedBy lists the volumes with a user that fits.
func (s *Service) usedBy(fits func(containerID string) bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, r := range s.volumes {
		if slices.ContainsFunc(r.Users, fits) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// release takes users that fit from a volume.
func (s *Service) release(ctx context.Context, name string, fits func(containerID string) bool, anonymous bool) error {
	unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	r := s.get(name)
	if r == nil || !slices.ContainsFunc(r.Users, fits) {
		unlock()
		return nil
	}
	left := *r
	left.Users = slices.DeleteFunc(slices.Clone(r.Users), fits)
	if anonymous && r.Anonymous && len(left.Users) == 0 {
		return s.removeAndUnlock(r, unlock)
	}
	defer unlock()
	return s.put(&left)
}

// records returns the records of this moment.
func (s *Service) records() map[string]*record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.volumes)
}
