package images

import (
	"errors"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/internal/errdefs"
)

// platform reads "os/architecture[/variant]"; empty is none.
func platform(text string) *ocispec.Platform {
	if text == "" {
		return nil
	}
	parts := append(strings.Split(text, "/"), "")
	return &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
}

func TestChoosePlatform(t *testing.T) {
	cases := []struct {
		wanted  string
		offered []string
		want    int // -1: none
	}{
		{"linux/amd64", []string{"linux/arm64", "linux/amd64", "windows/amd64"}, 1},
		{"linux/x86_64", []string{"linux/arm64", "linux/amd64"}, 1},
		{"linux/arm64", []string{"linux/arm64/v8"}, 0},
		{"linux/arm64/v8", []string{"linux/amd64", "linux/arm64"}, 1},
		{"linux/arm64", []string{"linux/arm64/v9", "linux/arm64/v8"}, 1},
		{"linux/arm/v7", []string{"linux/arm/v6", "linux/arm/v7"}, 1},
		{"linux/arm/v7", []string{"linux/arm/v5"}, 0},
		{"linux/arm/v6", []string{"linux/arm/v7"}, -1},
		{"linux/amd64", []string{"linux/amd64/v3", "linux/amd64"}, 1},
		{"linux/amd64", []string{"linux/amd64/v3"}, -1},
		{"linux/amd64", []string{"", "linux/amd64"}, 1},
		{"linux/amd64", []string{"", "linux/arm64"}, 0},
		{"linux/amd64", []string{"unknown/unknown"}, -1},
		{"linux/amd64", nil, -1},
	}
	for _, c := range cases {
		var manifests []ocispec.Descriptor
		for i, text := range c.offered {
			manifests = append(manifests, ocispec.Descriptor{Size: int64(i), Platform: platform(text)})
		}
		got, err := choosePlatform(manifests, platform(c.wanted))
		switch {
		case c.want < 0 && !errors.Is(err, errdefs.ErrNotFound):
			t.Errorf("%s of %q: got %d, %v, want ErrNotFound", c.wanted, c.offered, got.Size, err)
		case c.want >= 0 && (err != nil || got.Size != int64(c.want)):
			t.Errorf("%s of %q: got %d, %v, want %d", c.wanted, c.offered, got.Size, err, c.want)
		}
	}
}
