package server

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/manager/events"
	"github.com/berthd/berth/manager/images"
	"github.com/berthd/berth/manager/registry"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Images answers ImagesService.
type Images struct {
	berthv1.UnimplementedImagesServiceServer
	images *images.Service
	events *events.Broker
}

// NewImages makes the service on what keeps the images. What it changes is told to broker.
func NewImages(service *images.Service, broker *events.Broker) *Images {
	return &Images{images: service, events: broker}
}

// publish tells subscribers what happened to an image, which id names: by reference or by digest, as docker does. A
// reference is written as people write it, with its tag.
func (s *Images) publish(action, id string) {
	if named, err := reference.ParseNormalizedNamed(id); err == nil {
		id = reference.FamiliarString(reference.TagNameOnly(named))
	}
	s.events.Publish(&berthv1.Event{Type: "image", Action: action, Id: id, Attributes: map[string]string{"name": id}})
}

// PullImage fetches an image and streams what it does.
func (s *Images) PullImage(request *berthv1.PullImageRequest, stream grpc.ServerStreamingServer[berthv1.PullImageResponse]) error {
	if request.GetAllTags() {
		return notImplemented("pulling all tags of a repository")
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	result, err := s.images.Pull(ctx, images.PullRequest{
		Reference: request.GetReference(), Platform: platformOf(request.GetPlatform()), Credentials: credentialsOf(request.GetAuth()),
		Report: func(progress *berthv1.Progress) {
			err := stream.Send(&berthv1.PullImageResponse{Message: &berthv1.PullImageResponse_Progress{Progress: progress}})
			if err != nil {
				cancel(err)
			}
		},
	})
	if err != nil {
		return err
	}
	s.publish("pull", result.Reference)
	return stream.Send(&berthv1.PullImageResponse{Message: &berthv1.PullImageResponse_Result{Result: &berthv1.PullResult{
		ImageId: result.ID, Reference: result.Reference, Digest: result.Target.Digest.String(), Updated: result.Updated,
	}}})
}

// PushImage sends an image and streams what it does.
func (s *Images) PushImage(request *berthv1.PushImageRequest, stream grpc.ServerStreamingServer[berthv1.PushImageResponse]) error {
	switch {
	case request.GetAllTags():
		return notImplemented("pushing all tags of a repository")
	case platformOf(request.GetPlatform()) != nil:
		return notImplemented("pushing one platform of an index")
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	result, err := s.images.Push(ctx, images.PushRequest{
		Reference: request.GetReference(), Credentials: credentialsOf(request.GetAuth()),
		Report: func(progress *berthv1.Progress) {
			err := stream.Send(&berthv1.PushImageResponse{Message: &berthv1.PushImageResponse_Progress{Progress: progress}})
			if err != nil {
				cancel(err)
			}
		},
	})
	if err != nil {
		return err
	}
	s.publish("push", result.Reference)
	return stream.Send(&berthv1.PushImageResponse{Message: &berthv1.PushImageResponse_Result{Result: &berthv1.PushResult{
		Reference: result.Reference, Digest: result.Manifest.Digest.String(), Size: result.Manifest.Size,
	}}})
}

// ListImages answers newest first.
func (s *Images) ListImages(ctx context.Context, request *berthv1.ListImagesRequest) (*berthv1.ListImagesResponse, error) {
	list, err := s.images.List(ctx, request.GetFilters())
	if err != nil {
		return nil, err
	}
	response, described := &berthv1.ListImagesResponse{}, 0
	for _, details := range list {
		message := imageMessage(details)
		message.Config = nil
		if size := descriptionSize(message); described+size <= maxDescriptions {
			described += size
		} else {
			message.Labels, message.Layers, message.Author, message.Comment = nil, nil, "", ""
		}
		response.Images = append(response.Images, message)
	}
	return response, nil
}

// maxDescriptions bounds how much of a list comes from the images themselves: each may have megabytes of labels, and a
// response has a limit, too.
const maxDescriptions = 4 << 20

func descriptionSize(message *berthv1.Image) int {
	return proto.Size(&berthv1.Image{
		Labels: message.GetLabels(), Layers: message.GetLayers(), Author: message.GetAuthor(), Comment: message.GetComment(),
	})
}

// InspectImage tells all of one image.
func (s *Images) InspectImage(ctx context.Context, request *berthv1.InspectImageRequest) (*berthv1.InspectImageResponse, error) {
	details, err := s.images.Inspect(ctx, request.GetImage())
	if err != nil {
		return nil, err
	}
	if err := details.CheckPlatform(platformOf(request.GetPlatform())); err != nil {
		return nil, err
	}
	return &berthv1.InspectImageResponse{Image: imageMessage(details)}, nil
}

// TagImage gives an image a further name.
func (s *Images) TagImage(ctx context.Context, request *berthv1.TagImageRequest) (*berthv1.TagImageResponse, error) {
	if err := s.images.Tag(ctx, request.GetSource(), request.GetTarget()); err != nil {
		return nil, err
	}
	s.publish("tag", request.GetTarget())
	return &berthv1.TagImageResponse{}, nil
}

// RemoveImage removes a name, and with its last name the image.
func (s *Images) RemoveImage(ctx context.Context, request *berthv1.RemoveImageRequest) (*berthv1.RemoveImageResponse, error) {
	removed, err := s.images.Remove(ctx, request.GetImage(), request.GetForce())
	if err != nil {
		return nil, err
	}
	for _, name := range removed.Untagged {
		s.publish("untag", name)
	}
	for _, id := range removed.Deleted {
		s.events.Publish(&berthv1.Event{Type: "image", Action: "delete", Id: id, Attributes: map[string]string{"name": id}})
	}
	return &berthv1.RemoveImageResponse{Untagged: removed.Untagged, Deleted: removed.Deleted}, nil
}

// HistoryImage tells how the image was built, newest step first.
func (s *Images) HistoryImage(ctx context.Context, request *berthv1.HistoryImageRequest) (*berthv1.HistoryImageResponse, error) {
	steps, err := s.images.History(ctx, request.GetImage())
	if err != nil {
		return nil, err
	}
	response := &berthv1.HistoryImageResponse{}
	for _, step := range steps {
		response.Entries = append(response.Entries, &berthv1.HistoryEntry{
			ImageId: step.ImageID, CreatedAt: optionalTime(step.Created), CreatedBy: step.CreatedBy, Size: step.Size,
			Comment: step.Comment, Tags: step.Tags,
		})
	}
	return response, nil
}

// LoadImages is not built yet.
func (s *Images) LoadImages(grpc.BidiStreamingServer[berthv1.LoadImagesRequest, berthv1.LoadImagesResponse]) error {
	return notImplemented("loading images from an archive")
}

// SaveImages is not built yet.
func (s *Images) SaveImages(*berthv1.SaveImagesRequest, grpc.ServerStreamingServer[berthv1.SaveImagesResponse]) error {
	return notImplemented("saving images to an archive")
}

// ImportImage is not built yet.
func (s *Images) ImportImage(grpc.ClientStreamingServer[berthv1.ImportImageRequest, berthv1.ImportImageResponse]) error {
	return notImplemented("importing a file system as an image")
}

// PruneImages is not built yet.
func (s *Images) PruneImages(context.Context, *berthv1.PruneImagesRequest) (*berthv1.PruneImagesResponse, error) {
	return nil, notImplemented("pruning images")
}

func imageMessage(d images.Details) *berthv1.Image {
	message := &berthv1.Image{
		Id: d.ID, Tags: d.Tags, Digests: d.Digests,
		Target: &berthv1.Descriptor{
			MediaType: d.Target.MediaType, Digest: d.Target.Digest.String(), Size: d.Target.Size, Annotations: d.Target.Annotations,
		},
		Platform: &berthv1.Platform{Os: d.Config.OS, Architecture: d.Config.Architecture, Variant: d.Config.Variant},
		Size:     d.Size, Config: imageConfig(d.Config.Config, d.RawConfig), Author: d.Config.Author, Comment: d.Comment,
		Labels: d.Config.Config.Labels, Containers: uint32(len(d.Containers)), Snapshotter: d.Snapshotter,
	}
	for _, layer := range d.Config.RootFS.DiffIDs {
		message.Layers = append(message.Layers, layer.String())
	}
	if !d.CreatedAt.IsZero() {
		message.CreatedAt = timestamppb.New(d.CreatedAt)
	}
	if !d.TaggedAt.IsZero() {
		message.TaggedAt = timestamppb.New(d.TaggedAt)
	}
	return message
}

func imageConfig(config ocispec.ImageConfig, raw []byte) *berthv1.ImageConfig {
	return &berthv1.ImageConfig{
		User: config.User, Env: config.Env, Entrypoint: config.Entrypoint, Cmd: config.Cmd, WorkingDir: config.WorkingDir,
		StopSignal: config.StopSignal, Raw: json.RawMessage(raw),
		ExposedPorts: slices.Sorted(maps.Keys(config.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(config.Volumes)),
	}
}

func optionalTime(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

func platformOf(p *berthv1.Platform) *ocispec.Platform {
	if p.GetOs() == "" && p.GetArchitecture() == "" && p.GetVariant() == "" {
		return nil
	}
	return &ocispec.Platform{OS: p.GetOs(), Architecture: p.GetArchitecture(), Variant: p.GetVariant()}
}

func credentialsOf(auth *berthv1.RegistryAuth) registry.Credentials {
	return registry.Credentials{
		Username: auth.GetUsername(), Password: auth.GetPassword(),
		IdentityToken: auth.GetIdentityToken(), RegistryToken: auth.GetRegistryToken(),
	}
}
