package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/grpcstatus"
	"github.com/berthd/berth/manager/blobs"
	"github.com/berthd/berth/manager/bundle"
	"github.com/berthd/berth/manager/rootfs"
	"github.com/berthd/berth/manager/unpack"
	"github.com/berthd/berth/manager/volumes"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const (
	// ownerLabel marks the snapshots that are writable layers, so that those of nobody can be found.
	ownerLabel = "dev.berth/container"
	// rootLabel keeps a containerd, if it is the snapshotter, from collecting them.
	rootLabel = "containerd.io/gc.root"
)

func (s *Service) prepareSnapshot(ctx context.Context, c *container) error {
	// Not given up half way: the snapshot could be made after it was undone.
	now := time.Now().UTC().Format(time.RFC3339)
	_, err := s.cfg.Snapshots.Prepare(blobs.WithNamespace(context.WithoutCancel(ctx)), &snapshotsapi.PrepareSnapshotRequest{
		Snapshotter: s.cfg.Snapshotter, Key: c.id, Parent: c.image.parentSnapshot,
		Labels: map[string]string{ownerLabel: c.id, unpack.OwnerLabel(s.cfg.Daemon): now, rootLabel: now},
	})
	if err != nil {
		return fmt.Errorf("cannot make the container's writable layer: %w", grpcstatus.Error(err))
	}
	return nil
}

func (s *Service) snapshotMounts(ctx context.Context, id string) ([]*types.Mount, error) {
	response, err := s.cfg.Snapshots.Mounts(blobs.WithNamespace(ctx), &snapshotsapi.MountsRequest{Snapshotter: s.cfg.Snapshotter, Key: id})
	if err != nil {
		return nil, fmt.Errorf("cannot use the container's writable layer: %w", grpcstatus.Error(err))
	}
	return response.GetMounts(), nil
}

func (s *Service) removeSnapshot(ctx context.Context, id string) error {
	_, err := s.cfg.Snapshots.Remove(blobs.WithNamespace(ctx), &snapshotsapi.RemoveSnapshotRequest{Snapshotter: s.cfg.Snapshotter, Key: id})
	if err = ignoreNotFound(grpcstatus.Error(err)); err != nil {
		return fmt.Errorf("cannot remove the container's writable layer: %w", err)
	}
	return nil
}

// ownedSnapshots lists the writable layers of this daemon's containers, as their IDs.
func (s *Service) ownedSnapshots(ctx context.Context) ([]string, error) {
	stream, err := s.cfg.Snapshots.List(blobs.WithNamespace(ctx), &snapshotsapi.ListSnapshotsRequest{Snapshotter: s.cfg.Snapshotter})
	var keys []string
	for err == nil {
		var response *snapshotsapi.ListSnapshotsResponse
		if response, err = stream.Recv(); err != nil {
			break
		}
		for _, info := range response.GetInfo() {
			own := info.GetLabels()[unpack.OwnerLabel(s.cfg.Daemon)] != ""
			if own && info.GetLabels()[ownerLabel] == info.GetName() {
				keys = append(keys, info.GetName())
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot list snapshots: %w", grpcstatus.Error(err))
	}
	return keys, nil
}

// mountRootfs mounts the container's file system in its bundle.
func (s *Service) mountRootfs(ctx context.Context, c *container) error {
	mounts, err := s.snapshotMounts(ctx, c.id)
	if err != nil {
		return err
	}
	return rootfs.Mount(mounts, filepath.Join(c.bundle, bundle.RootfsDir))
}

// resolveMounts finds what each mount stands for on the host, and makes volumes that are not there. The image's own
// volumes, which describe has put into the message, come first and give way to what the client mounts there.
func (s *Service) resolveMounts(ctx context.Context, c *container) error {
	var resolved, fresh []*berthv1.MountState
	asked := c.message.GetSpec().GetMounts()
	for _, own := range c.message.GetMounts() {
		same := func(m *berthv1.Mount) bool {
			return filepath.Clean(m.GetTarget()) == filepath.Clean(own.GetMount().GetTarget())
		}
		if !slices.ContainsFunc(asked, same) {
			resolved = append(resolved, own)
		}
	}
	for _, mount := range asked {
		resolved = append(resolved, &berthv1.MountState{Mount: mount})
	}
	for _, state := range resolved {
		if err := s.resolveMount(ctx, c, state); err != nil {
			return err
		}
		if state.GetVolume() != "" && !state.GetMount().GetNoCopy() {
			fresh = append(fresh, state)
		}
	}
	c.message.Mounts = resolved
	if len(fresh) == 0 {
		return nil
	}
	return s.populateVolumes(ctx, c, fresh)
}

func (s *Service) resolveMount(ctx context.Context, c *container, state *berthv1.MountState) (err error) {
	mount := state.GetMount()
	switch mount.GetType() {
	case berthv1.MountType_MOUNT_TYPE_BIND:
		state.HostPath = mount.GetSource()
		_, err := os.Stat(mount.GetSource())
		if mount.GetCreateSource() && errors.Is(err, os.ErrNotExist) {
			if err = os.MkdirAll(mount.GetSource(), 0o755); err != nil {
				return fmt.Errorf("cannot make the source of the mount at %q: %w", mount.GetTarget(), err)
			}
		}
		if err != nil {
			return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid mount at %q: the source %q does not exist on the host", mount.GetTarget(), mount.GetSource()))
		}
	case berthv1.MountType_MOUNT_TYPE_VOLUME:
		state.Volume, state.Driver = mount.GetSource(), "local"
		if state.GetVolume() == "" {
			made, err := s.cfg.Volumes.Create(ctx, volumes.Volume{Anonymous: true})
			if err != nil {
				return err
			}
			state.Volume = made.Name
		}
		state.HostPath, err = s.cfg.Volumes.Use(ctx, state.GetVolume(), c.id)
		return err
	}
	return nil
}

// populateVolumes copies what the image has at a volume's place into the volume, if that is new.
func (s *Service) populateVolumes(ctx context.Context, c *container, states []*berthv1.MountState) (err error) {
	defer func() { err = errors.Join(err, s.removeBundle(c)) }()
	if err := os.MkdirAll(c.bundle, 0o711); err != nil {
		return fmt.Errorf("cannot make the bundle: %w", err)
	}
	if err := s.mountRootfs(ctx, c); err != nil {
		return err
	}
	for _, state := range states {
		if err := s.cfg.Volumes.Populate(ctx, state.GetVolume(), filepath.Join(c.bundle, bundle.RootfsDir), state.GetMount().GetTarget()); err != nil {
			return err
		}
	}
	return nil
}

// removeBundle unmounts what is mounted in the bundle and removes it. If something is still mounted, nothing is removed:
// it would be removed from the image's or the user's files.
func (s *Service) removeBundle(c *container) error { return removeBundleDir(c.bundle) }

func removeBundleDir(dir string) error {
	if err := unmountBundle(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove the bundle: %w", err)
	}
	return nil
}

// unmountBundle takes down the file systems that are mounted in a bundle, if they are.
func unmountBundle(dir string) error {
	for _, name := range []string{bundle.RootfsDir, bundle.ShmDir} {
		mount := filepath.Join(dir, name)
		if err := rootfs.Unmount(mount); err != nil {
			return err
		}
		if err := os.Remove(mount); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove the bundle: %w", err)
		}
	}
	return nil
}
