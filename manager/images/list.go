package images

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/internal/errdefs"
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
	d := Details{Image: f.image(), Tags: r.tags(), Digests: r.digests(), Size: r.size(), RawConfig: r.Raw}
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
	var matchers []func(*record) bool
	for _, filter := range filters {
		match, err := s.matcher(filter)
		if err != nil {
			return nil, err
		}
		matchers = append(matchers, match)
	}
	var list []Details
	for _, r := range s.index.all() {
		if !slices.ContainsFunc(matchers, func(match func(*record) bool) bool { return !match(r) }) {
			list = append(list, s.details(ctx, found{record: r}))
		}
	}
	slices.SortFunc(list, func(a, b Details) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// matcher makes a function of a filter, whose values are alternatives.
func (s *Service) matcher(filter *berthv1.Filter) (func(*record) bool, error) {
	makers := map[string]func(value string) (func(*record) bool, error){
		"reference": matchReference, "dangling": matchDangling, "label": matchLabel, "until": matchUntil,
		"before": func(value string) (func(*record) bool, error) { return s.matchAge(value, time.Time.Before) },
		"since":  func(value string) (func(*record) bool, error) { return s.matchAge(value, time.Time.After) },
	}
	maker := makers[filter.GetKey()]
	if maker == nil {
		return nil, invalid("cannot filter images by %q: want reference, dangling, label, before, since or until", filter.GetKey())
	}
	var alternatives []func(*record) bool
	for _, value := range filter.GetValues() {
		match, err := maker(value)
		if err != nil {
			return nil, err
		}
		alternatives = append(alternatives, match)
	}
	return func(r *record) bool {
		return slices.ContainsFunc(alternatives, func(match func(*record) bool) bool { return match(r) })
	}, nil
}

// matchReference matches names as people write them, with or without the tag, against a pattern of path.Match.
func matchReference(pattern string) (func(*record) bool, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, invalid("cannot use the pattern %q of the filter reference: %v", pattern, err)
	}
	return func(r *record) bool {
		for n := range r.Names {
			named, err := reference.ParseNormalizedNamed(n)
			if err != nil {
				continue
			}
			for _, candidate := range []string{n, named.Name(), reference.FamiliarString(named), reference.FamiliarName(named)} {
				if ok, _ := path.Match(pattern, candidate); ok {
					return true
				}
			}
		}
		return false
	}, nil
}

func matchDangling(value string) (func(*record) bool, error) {
	want, err := strconv.ParseBool(value)
	if err != nil {
		return nil, invalid("cannot use the value %q of the filter dangling: want true or false", value)
	}
	return func(r *record) bool { return (len(r.tags()) == 0) == want }, nil
}

func matchLabel(value string) (func(*record) bool, error) {
	key, wanted, exact := strings.Cut(value, "=")
	return func(r *record) bool {
		got, there := r.config.Config.Labels[key]
		return there && (!exact || got == wanted)
	}, nil
}

func matchUntil(value string) (func(*record) bool, error) {
	limit, err := time.Parse(time.RFC3339, value)
	if err != nil {
		age, ageErr := time.ParseDuration(value)
		if ageErr != nil {
			return nil, invalid("cannot use the value %q of the filter until: want a time as 2006-01-02T15:04:05Z or an age as 24h", value)
		}
		limit = time.Now().Add(-age)
	}
	return func(r *record) bool { return created(r).Before(limit) }, nil
}

func (s *Service) matchAge(ref string, compare func(a, b time.Time) bool) (func(*record) bool, error) {
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
