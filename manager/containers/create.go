package containers

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/bundle"
	"github.com/berthd/berth/manager/images"
	"github.com/berthd/berth/manager/names"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Create makes a container from an image that is here. Nothing runs yet. The warnings name what the container does
// without, in sentences.
func (s *Service) Create(ctx context.Context, name string, spec *berthv1.ContainerSpec) (_ *berthv1.Container, warnings []string, err error) {
	if err := s.validate(name, spec); err != nil {
		return nil, nil, err
	}
	image, err := s.cfg.Images.Resolve(ctx, spec.GetImage())
	if err != nil {
		return nil, nil, err
	}
	if wanted := spec.GetPlatform(); wanted != nil {
		err := image.CheckPlatform(&ocispec.Platform{OS: wanted.GetOs(), Architecture: wanted.GetArchitecture(), Variant: wanted.GetVariant()})
		if err != nil {
			return nil, nil, err
		}
	}
	message, warnings, err := s.describe(spec, image)
	if err != nil {
		return nil, nil, err
	}
	created, err := s.create(ctx, name, message, fromImage{stopSignal: stopSignal(spec, image), parentSnapshot: image.ChainID})
	return created, warnings, err
}

// create makes a described container, or leaves nothing behind.
func (s *Service) create(ctx context.Context, name string, message *berthv1.Container, from fromImage) (_ *berthv1.Container, err error) {
	client := ctx
	ctx = context.WithoutCancel(ctx)
	var undo cleanup.Stack
	defer func() { err = undo.Run(ctx, err) }()

	c := s.newContainer(message)
	c.image = from
	c.life <- struct{}{}
	defer func() { <-c.life }()
	if err := s.nameContainer(c, name); err != nil {
		return nil, err
	}
	undo.Add(func(context.Context) error { s.forget(c); c.markRemoved(); return nil })
	if err := os.Mkdir(c.dir, 0o710); err != nil {
		return nil, fmt.Errorf("cannot make the container's directory: %w", err)
	}
	undo.Add(func(context.Context) error { return os.RemoveAll(c.dir) })
	if err := s.furnish(ctx, c, &undo); err != nil {
		return nil, err
	}
	if err := client.Err(); err != nil { // a client that has gone would never know of the container
		return nil, err
	}
	if err := c.saveConfig(); err != nil { // from here on there is a container: without this file Restore undoes it
		return nil, err
	}
	s.add(c)
	s.publish(c, "create")
	return c.snapshot(), nil
}

// describe makes the message of a new container out of what was asked for and the image's defaults.
func (s *Service) describe(spec *berthv1.ContainerSpec, image images.Image) (_ *berthv1.Container, warnings []string, err error) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	id := hex.EncodeToString(random[:])
	process := bundle.MergeProcess(spec.GetProcess(), image.Config.Config)
	if len(bundle.Command(process)) == 0 {
		return nil, nil, invalid("no command: neither the request nor image %q names one", spec.GetImage())
	}
	exposed, warnings, err := exposedPorts(spec, image)
	if err != nil {
		return nil, nil, err
	}
	warnings = append(warnings, missing(spec, image)...)
	spec = proto.CloneOf(spec)
	spec.Labels = mergeLabels(image.Config.Config.Labels, spec.GetLabels())
	if err := s.resolveReferences(spec); err != nil {
		return nil, nil, err
	}
	dir := s.recordDir(id)
	message := &berthv1.Container{
		Id: id, CreatedAt: timestamppb.Now(), Spec: spec, State: &berthv1.ContainerState{Status: statusCreated},
		Image: spec.GetImage(), ImageId: image.ID, Command: bundle.Command(process), ExposedPorts: exposed,
		SnapshotKey: id, Process: process, Bundle: filepath.Join(s.stateDir("bundles"), id),
	}
	if keepsLog(spec) {
		message.LogPath = logPath(dir, id)
	}
	for target := range image.Config.Config.Volumes {
		message.Mounts = append(message.Mounts, &berthv1.MountState{Mount: &berthv1.Mount{Type: berthv1.MountType_MOUNT_TYPE_VOLUME, Target: target}})
	}
	return message, warnings, nil
}

// exposedPorts are the ports of the request and of the image, one by one: both may name ranges, as "8000-8002/tcp". A
// container whose network is not its own publishes none, whatever its image exposes.
func exposedPorts(spec *berthv1.ContainerSpec, image images.Image) (list, warnings []string, err error) {
	ports := portSet{}
	for _, text := range spec.GetNetwork().GetExposedPorts() {
		if err := ports.add(text); err != nil {
			return nil, nil, err
		}
	}
	for text := range image.Config.Config.ExposedPorts {
		if err := ports.add(text); err != nil {
			warnings = append(warnings, fmt.Sprintf("the port %q that image %q exposes is left out: it is not valid", text, spec.GetImage()))
		}
	}
	return ports.list(), warnings, nil
}

// missing tells what is asked for and not done, where that is no reason to refuse the container.
func missing(spec *berthv1.ContainerSpec, image images.Image) (warnings []string) {
	network := spec.GetNetwork()
	if mode := network.GetMode(); (mode == "host" || mode == "none") && (len(network.GetPorts()) > 0 || network.GetPublishAll()) {
		warnings = append(warnings, fmt.Sprintf("published ports are discarded when using %s network mode", mode))
	}
	if image.HasHealthCheck && len(spec.GetHealth().GetTest()) == 0 {
		warnings = append(warnings, fmt.Sprintf("image %q has a health check, which this berthd does not run", spec.GetImage()))
	}
	return warnings
}

func mergeLabels(image, asked map[string]string) map[string]string {
	merged := map[string]string{}
	for _, labels := range []map[string]string{image, asked} {
		for key, value := range labels {
			merged[key] = value
		}
	}
	return merged
}

func stopSignal(spec *berthv1.ContainerSpec, image images.Image) string {
	if spec.GetStopSignal() != "" {
		return spec.GetStopSignal()
	}
	return image.Config.Config.StopSignal
}

// nameContainer gives a container its name, or one of our choice that is free.
func (s *Service) nameContainer(c *container, name string) error {
	if name != "" {
		c.message.Name = name
		return s.claimName(c, name)
	}
	for attempt := 0; ; attempt++ {
		name := names.Random(attempt)
		err := s.claimName(c, name)
		if err == nil {
			c.message.Name = name
		}
		if err == nil || attempt > 1000 || !errors.Is(err, errdefs.ErrAlreadyExists) {
			return err
		}
	}
}

// furnish gives a container its writable layer and its volumes.
func (s *Service) furnish(ctx context.Context, c *container, undo *cleanup.Stack) error {
	undo.Add(func(ctx context.Context) error { return s.removeSnapshot(ctx, c.id) })
	if err := s.prepareSnapshot(ctx, c); err != nil {
		return err
	}
	undo.Add(func(ctx context.Context) error { return s.cfg.Volumes.Release(ctx, c.id, true) })
	return s.resolveMounts(ctx, c)
}

// Rename gives a container another name.
func (s *Service) Rename(ctx context.Context, ref, name string) error {
	if err := names.Check(name); err != nil {
		return err
	}
	c, release, err := s.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	old := c.snapshot().GetName()
	if old == name {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot rename container %q: that is its name already", name))
	}
	if err := s.claimName(c, name); err != nil {
		return fmt.Errorf("cannot rename container %q: %w", old, err)
	}
	setName := func(name string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.message.Name = name
		c.announce()
	}
	setName(name)
	if err := c.saveConfig(); err != nil {
		setName(old)
		s.releaseName(c, name)
		return fmt.Errorf("cannot rename container %q: %w", old, err)
	}
	s.releaseName(c, old)
	s.publish(c, "rename", "oldName", old)
	return nil
}

// defaultStopTimeout is how long Stop waits where nobody says otherwise.
const defaultStopTimeout = 10 * time.Second
