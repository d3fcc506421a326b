package inspect

import (
	"encoding/json"

	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Image is docker's document of an image.
type Image struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Parent       string
	Comment      string
	Created      string
	Author       string
	Config       ImageConfig
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64
	GraphDriver  GraphDriver
	RootFS       RootFS
	Metadata     Metadata
}

// Metadata is what this host knows of an image beside its content.
type Metadata struct {
	LastTagTime string
}

// ImageConfig is how containers of an image run by default.
type ImageConfig struct {
	User         string
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string
	Cmd          []string
	Entrypoint   []string
	Volumes      map[string]struct{} `json:",omitempty"`
	WorkingDir   string
	Labels       map[string]string
	StopSignal   string `json:",omitempty"`
	dockerConfig
}

// dockerConfig is what Docker's configuration of an image has and the OCI's has not.
type dockerConfig struct {
	OnBuild     []string
	Healthcheck *Healthcheck `json:",omitempty"`
	Shell       []string     `json:",omitempty"`
}

// RootFS are the digests of an image's uncompressed layers.
type RootFS struct {
	Type   string
	Layers []string
}

// NewImage returns the document of an image.
func NewImage(image *berthv1.Image) Image {
	config := image.GetConfig()
	var docker struct {
		Config dockerConfig `json:"config"`
	}
	// One that is not of Docker's form has no such fields.
	_ = json.Unmarshal(config.GetRaw(), &docker)
	return Image{
		ID: image.GetId(), RepoTags: names(image.GetTags()), RepoDigests: names(image.GetDigests()),
		Comment: image.GetComment(), Created: stamp(image.GetCreatedAt()), Author: image.GetAuthor(),
		Config: ImageConfig{
			User: config.GetUser(), ExposedPorts: set(config.GetExposedPorts()), Env: config.GetEnv(), Cmd: config.GetCmd(),
			Entrypoint: config.GetEntrypoint(), Volumes: set(config.GetVolumes()), WorkingDir: config.GetWorkingDir(),
			Labels: image.GetLabels(), StopSignal: config.GetStopSignal(), dockerConfig: docker.Config,
		},
		Architecture: image.GetPlatform().GetArchitecture(), Variant: image.GetPlatform().GetVariant(), Os: image.GetPlatform().GetOs(),
		Size: image.GetSize(), RootFS: RootFS{Type: "layers", Layers: image.GetLayers()},
		GraphDriver: newGraphDriver(image.GetSnapshotter()), Metadata: Metadata{LastTagTime: stamp(image.GetTaggedAt())},
	}
}

func names(references []string) []string {
	short := make([]string, len(references))
	for i, reference := range references {
		short[i] = format.Name(reference)
	}
	return short
}

func set(members []string) map[string]struct{} {
	if len(members) == 0 {
		return nil
	}
	docker := make(map[string]struct{}, len(members))
	for _, member := range members {
		docker[member] = struct{}{}
	}
	return docker
}
