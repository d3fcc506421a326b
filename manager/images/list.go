package images

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/filter"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Details is all that is known of an image.
type Details struct {
	Image
	// Tags and Digests are its full names of either kind.
	Tags, Digests []string
	TaggedAt      time.Time
	// Size is that of the unpacked layers.
	Size    int64
	Comment string
	// RawConfig is the configuration as the registry has it.
	RawConfig []byte
	// Snapshotter has the layers.
	Snapshotter string
	// Containers are the IDs of those that use it.
	Containers []string
}

// Inspect tells all of one image.
func (s *Service) Inspect(ctx context.Context, ref string) (Details, error) {
	f, err := s.index.find(ref)
	if err != nil {
		return Details{}, err
	}
	return s.details(ctx, f), nil
}

func (s *Service) details(ctx context.Context, f found) Details {
	r := f.record
	d := Details{Image: f.image(), Tags: r.tags(), Digests: r.digests(), Size: r.size(), RawConfig: r.Raw, Snapshotter: s.cfg.Snapshotter}
	for _, n := range r.Names {
		if n.TaggedAt.After(d.TaggedAt) {
			d.TaggedAt = n.TaggedAt
			if f.name == "" {
				d.Target = n.Target
			}
		}
	}
	var docker struct {
		Comment string `json:"comment"` // not in the specification, but Docker writes it
	}
	if json.Unmarshal(r.Raw, &docker) == nil {
		d.Comment = docker.Comment
	}
	d.Containers, _ = s.inUse(ctx, r.ID)
	return d
}

// List answers the images that fit all filters, newest first.
func (s *Service) List(ctx context.Context, filters []*berthv1.Filter) ([]Details, error) {
	fits, err := filter.Parse("images", filters, map[string]filter.Key[*record]{
		"reference": matchReference,
		"dangling":  filter.Bool(func(r *record) bool { return len(r.tags()) == 0 }),
		"label":     filter.Label(func(r *record) map[string]string { return r.config.Config.Labels }),
		"until":     filter.Until(created),
		"before":    func(value string) (filter.Condition[*record], error) { return s.matchAge(value, time.Time.Before) },
		"since":     func(value string) (filter.Condition[*record], error) { return s.matchAge(value, time.Time.After) },
	})
	if err != nil {
		return nil, err
	}
	var list []Details
	for _, r := range s.index.all() {
		if fits(r) {
			d := s.details(ctx, found{record: r})
			keepMatching(&d, filters)
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b Details) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// matchReference fits images that have a name which fits.
func matchReference(pattern string) (filter.Condition[*record], error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, invalid("%v", err)
	}
	return func(r *record) bool {
		for n := range r.Names {
			if matchName(pattern, n) {
				return true
			}
		}
		return false
	}, nil
}

// matchName matches a name as people write it, with or without the tag, against a pattern of path.Match.
func matchName(pattern, full string) bool {
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return false
	}
	for _, candidate := range []string{full, named.Name(), reference.FamiliarString(named), reference.FamiliarName(named)} {
		if ok, _ := path.Match(pattern, candidate); ok {
			return true
		}
	}
	return false
}

// keepMatching drops the names of an image that the filter reference does not ask for.
func keepMatching(d *Details, filters []*berthv1.Filter) {
	for _, f := range filters {
		if f.GetKey() != "reference" || len(f.GetValues()) == 0 {
			continue
		}
		unwanted := func(name string) bool {
			return !slices.ContainsFunc(f.GetValues(), func(pattern string) bool { return matchName(pattern, name) })
		}
		d.Tags, d.Digests = slices.DeleteFunc(d.Tags, unwanted), slices.DeleteFunc(d.Digests, unwanted)
	}
}

func (s *Service) matchAge(ref string, compare func(a, b time.Time) bool) (filter.Condition[*record], error) {
	other, err := s.index.find(ref)
	if err != nil {
		return nil, err
	}
	return func(r *record) bool { return compare(created(r), created(other.record)) }, nil
}

func created(r *record) time.Time {
	if r.config.Created == nil {
		return time.Time{}
	}
	return *r.config.Created
}

// Step is one step of how an image was built.
type Step struct {
	ocispec.History
	// ImageID is set for the last step, and Tags with it.
	ImageID string
	Tags    []string
	// Size is what the step added.
	Size int64
}

// History tells how an image was built, newest step first.
func (s *Service) History(_ context.Context, ref string) ([]Step, error) {
	f, err := s.index.find(ref)
	if err != nil {
		return nil, err
	}
	r := f.record
	var steps []Step
	layer := 0
	for _, h := range r.config.History {
		step := Step{History: h}
		if !h.EmptyLayer && layer < len(r.LayerSizes) {
			step.Size = r.LayerSizes[layer]
			layer++
		}
		steps = append(steps, step)
	}
	// Some builders write no history, or not all of it.
	for ; layer < len(r.LayerSizes); layer++ {
		steps = append(steps, Step{Size: r.LayerSizes[layer]})
	}
	slices.Reverse(steps)
	if len(steps) > 0 {
		steps[0].ImageID, steps[0].Tags = r.ID, r.tags()
	}
	return steps, nil
}

// Tag gives an image a further name. One that another image has moves over.
func (s *Service) Tag(_ context.Context, source, target string) error {
	f, err := s.index.find(source)
	if err != nil {
		return err
	}
	named, err := parseName(target)
	if err != nil {
		return err
	}
	if _, digested := named.(reference.Digested); digested {
		return invalid("cannot tag %q: the new name %q has a digest, which nobody can choose", source, target)
	}
	if digest.Digest("sha256:"+reference.FamiliarName(named)).Validate() == nil {
		return invalid("cannot tag %q: the new name %q could not be told from an image ID", source, target)
	}
	given := name{Target: f.record.Manifest, Content: f.record.Content, TaggedAt: time.Now().UTC()}
	if f.name != "" {
		from := f.record.Names[f.name]
		given.Target, given.Content = from.Target, from.Content
	}
	if err := s.index.tag(f.record.ID, named.String(), given); err != nil {
		return fmt.Errorf("cannot tag %q as %q: %w", source, target, err)
	}
	s.cfg.Logger.Info("image tagged", "image", named.String(), "id", f.record.ID)
	return nil
}

// tag adds a name to an image that is there.
func (x *index) tag(id, full string, given name) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := x.images[id]
	if r == nil {
		return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("the image has been removed meanwhile"))
	}
	if err := x.replace(r.with(func(names map[string]name) { names[full] = given })); err != nil {
		return err
	}
	if err := x.unname(full, id); err != nil {
		return err
	}
	x.names[full] = id
	return nil
}
