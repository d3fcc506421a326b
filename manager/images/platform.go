package images

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/internal/errdefs"
)

// choosePlatform returns the manifest of an index that fits best. One without a platform fits whatever is wanted, but
// only if no other does.
func choosePlatform(manifests []ocispec.Descriptor, wanted *ocispec.Platform) (ocispec.Descriptor, error) {
	target := complete(wanted)
	best, bestRank := ocispec.Descriptor{}, 0
	var offered []string
	for _, m := range manifests {
		r := rank(m, target)
		if r > bestRank {
			best, bestRank = m, r
		}
		if m.Platform != nil && m.Platform.OS != "unknown" {
			offered = append(offered, describe(*m.Platform))
		}
	}
	if bestRank > 0 {
		return best, nil
	}
	slices.Sort(offered)
	return best, errdefs.As(errdefs.ErrNotFound, fmt.Errorf("the image is not there for the platform %s, only for %s",
		describe(target), cmp.Or(strings.Join(slices.Compact(offered), ", "), "none")))
}

// CheckPlatform refuses an image that is here for another platform than the wanted one. Nil: whatever is here will do.
func (i Image) CheckPlatform(wanted *ocispec.Platform) error {
	if wanted == nil || rank(ocispec.Descriptor{Platform: &i.Config.Platform}, complete(wanted)) > 0 {
		return nil
	}
	return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("the image %q is here for the platform %s, not for %s",
		i.Name, describe(i.Config.Platform), describe(complete(wanted))))
}

// complete fills what is empty with what the host is.
func complete(wanted *ocispec.Platform) ocispec.Platform {
	target := ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if wanted == nil {
		return target
	}
	target.OS = cmp.Or(wanted.OS, target.OS)
	target.Variant = wanted.Variant
	target.Architecture = architecture(cmp.Or(wanted.Architecture, target.Architecture))
	return target
}

// architecture knows the names that uname uses.
func architecture(name string) string {
	switch name {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return name
}

// rank is 0 if a manifest does not fit, and higher the better it does.
func rank(m ocispec.Descriptor, target ocispec.Platform) int {
	p := m.Platform
	if p == nil {
		return 1
	}
	if p.OS != target.OS || architecture(p.Architecture) != target.Architecture {
		return 0
	}
	baseline := map[string]string{"arm64": "v8", "amd64": "v1", "arm": "v7"}[target.Architecture]
	offered, wanted := cmp.Or(p.Variant, baseline), cmp.Or(target.Variant, baseline)
	switch {
	case p.Variant == target.Variant:
		return 4
	case offered == wanted:
		return 3
	case target.Architecture == "arm" && offered < wanted: // v5 and v6 run on v7
		return 2
	}
	return 0
}

func describe(p ocispec.Platform) string {
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text
}
