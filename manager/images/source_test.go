package images

import (
	"errors"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/registry"
)

const (
	someDigest   = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	configJSON   = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + someDigest + `","size":2}`
	layerJSON    = `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"` + someDigest + `","size":3}`
	manifestType = ocispec.MediaTypeImageManifest
)

func TestParseManifest(t *testing.T) {
	cases := []struct {
		name, mediaType, content string
		class                    error // nil: it is good
	}{
		{"good", manifestType, `{"schemaVersion":2,` + configJSON + `,"layers":[` + layerJSON + `]}`, nil},
		{"without layers", manifestType, `{` + configJSON + `,"layers":[]}`, nil},
		{"docker's", registry.MediaTypeDockerManifest, `{"mediaType":"` + registry.MediaTypeDockerManifest + `",` + configJSON + `}`, nil},
		{"no JSON", manifestType, `rubbish`, errdefs.ErrInvalidArgument},
		{"unknown type", "application/json", `{` + configJSON + `}`, errdefs.ErrUnimplemented},
		{"an index too", manifestType, `{` + configJSON + `,"layers":[],"manifests":[]}`, errdefs.ErrInvalidArgument},
		{"another type inside", manifestType, `{"mediaType":"` + ocispec.MediaTypeImageIndex + `",` + configJSON + `}`, errdefs.ErrInvalidArgument},
		{"no image", manifestType, strings.Replace(`{`+configJSON+`}`, "oci.image.config", "acme.chart.config", 1), errdefs.ErrUnimplemented},
		{"encrypted layer", manifestType, `{` + configJSON + `,"layers":[` + strings.Replace(layerJSON, "tar+gzip", "encrypted", 1) + `]}`, errdefs.ErrUnimplemented},
		{"a configuration of 2016", registry.MediaTypeDockerManifest, strings.Replace(`{`+configJSON+`}`, "application/vnd.oci.image.config.v1+json", "application/octet-stream", 1), nil},
		{"a layer of BuildKit's", manifestType, `{` + configJSON + `,"layers":[` + strings.Replace(layerJSON, "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd", 1) + `]}`, nil},
		{"a foreign layer", manifestType, `{` + configJSON + `,"layers":[` + strings.Replace(layerJSON, "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 1) + `]}`, nil},
		{"a layer that is encrypted, too", manifestType, `{` + configJSON + `,"layers":[` + strings.Replace(layerJSON, "tar+gzip", "tar+gzip+encrypted", 1) + `]}`, errdefs.ErrUnimplemented},
		{"too many layers", manifestType, `{` + configJSON + `,"layers":[` + strings.Repeat(layerJSON+",", 500) + layerJSON + `]}`, errdefs.ErrInvalidArgument},
		{"bad digest", manifestType, strings.Replace(`{`+configJSON+`}`, someDigest, "sha256:../../etc", 1), errdefs.ErrInvalidArgument},
		{"other algorithm", manifestType, strings.Replace(`{`+configJSON+`}`, someDigest, "sha512:"+strings.Repeat("0", 128), 1), errdefs.ErrUnimplemented},
		{"negative size", manifestType, strings.Replace(`{`+configJSON+`}`, `"size":2`, `"size":-2`, 1), errdefs.ErrInvalidArgument},
	}
	for _, c := range cases {
		m, err := parseManifest(registry.Manifest{Descriptor: ocispec.Descriptor{MediaType: c.mediaType}, Content: []byte(c.content)})
		if !errors.Is(err, c.class) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.class)
		}
		if c.class == nil && m.Config.Digest != someDigest {
			t.Errorf("%s: the configuration is %q", c.name, m.Config.Digest)
		}
	}
}

func TestParseIndexRefusesWhatIsAManifestToo(t *testing.T) {
	for _, content := range []string{
		`{"manifests":[],` + configJSON + `}`, `{"manifests":[],"layers":[]}`, `{"mediaType":"` + manifestType + `","manifests":[]}`, `[]`,
		`{"manifests":[{"digest":"nonsense","size":1}]}`,
	} {
		_, err := parseIndex(registry.Manifest{Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex}, Content: []byte(content)})
		if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: got %v, want ErrInvalidArgument", content, err)
		}
	}
}
