package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/gc"
	"github.com/berthd/berth/manager/store"
	"github.com/berthd/berth/manager/unpack"
)

// recordVersion is that of record's layout on disk.
const recordVersion = 1

// record is what is durable of an image: one entry of the database, so that a pull is there with its names or not at
// all. Records in memory are never changed, only replaced.
type record struct {
	ID string `json:"id"`
	// Manifest is the one for the platform that was pulled last.
	Manifest ocispec.Descriptor `json:"manifest"`
	// Raw is the configuration as the registry has it.
	Raw []byte `json:"config"`
	// Content are the digests that the image consists of, if no name says otherwise.
	Content []string `json:"content"`
	// LayerSizes are those of the unpacked layers, lowest first.
	LayerSizes []int64         `json:"layerSizes"`
	Names      map[string]name `json:"names"`

	config ocispec.Image
	// healthCheck says that the configuration has a command that checks the health of containers.
	healthCheck bool
}

// name is a name of an image. Two names may stand for different manifests, as one compressed with gzip and one with
// zstd, that have the same configuration: each keeps its own content.
type name struct {
	Target   ocispec.Descriptor `json:"target"`
	Content  []string           `json:"content"`
	TaggedAt time.Time          `json:"taggedAt"`
}

func (r *record) parse() error {
	r.config = ocispec.Image{}
	if err := json.Unmarshal(r.Raw, &r.config); err != nil {
		return fmt.Errorf("cannot read the configuration of image %s: %w", short(r.ID), err)
	}
	r.healthCheck = hasHealthCheck(r.Raw)
	return nil
}

// hasHealthCheck looks for a health check, which is Docker's addition to the OCI configuration. One of another form
// than Docker's is none.
func hasHealthCheck(raw []byte) bool {
	var docker struct {
		Config struct {
			Healthcheck struct{ Test []string }
		} `json:"config"`
	}
	if err := json.Unmarshal(raw, &docker); err != nil {
		return false
	}
	test := docker.Config.Healthcheck.Test
	return len(test) > 0 && test[0] != "NONE"
}

func (r *record) size() int64 {
	var size int64
	for _, layer := range r.LayerSizes {
		size += layer
	}
	return size
}

// with returns a copy whose names can be changed.
func (r *record) with(change func(names map[string]name)) *record {
	copied := *r
	copied.Names = maps.Clone(r.Names)
	if copied.Names == nil {
		copied.Names = map[string]name{}
	}
	change(copied.Names)
	return &copied
}

// tags and digests are the two kinds of names, sorted.
func (r *record) tags() []string { return r.namesWhere(func(n string) bool { return !isDigested(n) }) }

func (r *record) digests() []string { return r.namesWhere(isDigested) }

func (r *record) namesWhere(match func(string) bool) []string {
	var names []string
	for n := range r.Names {
		if match(n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

func isDigested(name string) bool { return strings.Contains(name, "@") }

// index holds all records in memory, and their names.
type index struct {
	table *store.Table[record]

	mu     sync.RWMutex
	images map[string]*record
	names  map[string]string // to the image's ID
}

func openIndex(db *bbolt.DB, log *slog.Logger) (*index, error) {
	table, err := store.NewTable[record](db, "images", recordVersion)
	if err != nil {
		return nil, err
	}
	images, err := table.All(log, (*record).parse)
	if err != nil {
		return nil, err
	}
	x := &index{table: table, images: images, names: map[string]string{}}
	for id, r := range images {
		for n, given := range r.Names {
			// A crash while a name moved leaves it with both images: the later one has it.
			if other, taken := x.names[n]; taken && images[other].Names[n].TaggedAt.After(given.TaggedAt) {
				continue
			}
			x.names[n] = id
		}
	}
	for id, r := range images {
		images[id] = r.with(func(names map[string]name) {
			maps.DeleteFunc(names, func(n string, _ name) bool { return x.names[n] != id })
		})
	}
	return x, nil
}

// put records an image with its names, which other images lose. An image of that ID that is there keeps its other
// names. It tells whether anything is new.
func (x *index) put(r *record) (updated bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	given := r.Names
	for n := range given {
		updated = updated || x.names[n] != r.ID
	}
	if before := x.images[r.ID]; before != nil {
		r = r.with(func(names map[string]name) {
			for n, kept := range before.Names {
				if _, again := names[n]; !again {
					names[n] = kept
				}
			}
		})
	}
	if err := x.table.Put(r.ID, r); err != nil {
		return false, err
	}
	x.images[r.ID] = r
	for n := range given {
		if err := x.unname(n, r.ID); err != nil {
			return false, err
		}
		x.names[n] = r.ID
	}
	return updated, nil
}

// unname takes a name from the image that has it, unless that is the one it goes to.
func (x *index) unname(n, to string) error {
	owner := x.images[x.names[n]]
	if owner == nil || owner.ID == to {
		return nil
	}
	return x.replace(owner.with(func(names map[string]name) { delete(names, n) }))
}

func (x *index) replace(r *record) error {
	if err := x.table.Put(r.ID, r); err != nil {
		return err
	}
	x.images[r.ID] = r
	return nil
}

// update changes the names of an image. If change says so, the image goes.
func (x *index) update(id string, change func(r *record) (next *record, err error)) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := x.images[id]
	if r == nil {
		return noSuchImage(short(id))
	}
	next, err := change(r)
	if err != nil {
		return err
	}
	if next == nil {
		if err := x.table.Delete(id); err != nil {
			return err
		}
		delete(x.images, id)
	} else if err := x.replace(next); err != nil {
		return err
	}
	for n := range r.Names {
		if next == nil || !has(next.Names, n) {
			delete(x.names, n)
		}
	}
	return nil
}

func has(names map[string]name, n string) bool {
	_, there := names[n]
	return there
}

// found is a record and the full name that led to it; empty if an ID did.
type found struct {
	record *record
	name   string
}

func noSuchImage(ref string) error {
	return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("no such image: %q", ref))
}

// find looks for a name first, as docker does: an image may be called like the beginning of another's ID.
func (x *index) find(ref string) (found, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if ref == "" {
		return found{}, errdefs.As(errdefs.ErrInvalidArgument, errors.New("the name of an image is empty"))
	}
	named, nameErr := parseName(ref)
	if nameErr == nil {
		if r := x.images[x.names[named.String()]]; r != nil {
			return found{record: r, name: named.String()}, nil
		}
	}
	r, err := x.findID(ref)
	switch {
	case err != nil:
		return found{}, err
	case r != nil:
		return found{record: r}, nil
	case nameErr != nil:
		return found{}, nameErr
	}
	return found{}, noSuchImage(ref)
}

// findID returns the image whose ID begins with ref, or which has a manifest of that digest; nil if there is none.
func (x *index) findID(ref string) (*record, error) {
	if r := x.images[ref]; r != nil {
		return r, nil
	}
	if digest.Digest(ref).Validate() == nil {
		for _, r := range x.images {
			if string(r.Manifest.Digest) == ref || slices.ContainsFunc(r.digests(), func(n string) bool { return strings.HasSuffix(n, "@"+ref) }) {
				return r, nil
			}
		}
		return nil, nil
	}
	prefix := strings.TrimPrefix(ref, "sha256:")
	if prefix == "" || strings.Trim(prefix, "0123456789abcdef") != "" {
		return nil, nil
	}
	var match *record
	for id, r := range x.images {
		if !strings.HasPrefix(id, "sha256:"+prefix) {
			continue
		}
		if match != nil {
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("%q is the beginning of more than one image ID", ref))
		}
		match = r
	}
	return match, nil
}

// all returns every record.
func (x *index) all() []*record {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Collect(maps.Values(x.images))
}

// live tells what the images need.
func (x *index) live() gc.Live {
	live := gc.Live{}
	for _, r := range x.all() {
		for _, d := range r.Content {
			live[d] = true
		}
		for _, n := range r.Names {
			for _, d := range n.Content {
				live[d] = true
			}
		}
		for _, chain := range unpack.ChainIDs(r.config.RootFS.DiffIDs) {
			live[chain] = true
		}
	}
	return live
}

// parseName makes a full name of what a user wrote: with the registry's host, and with a tag unless it has a digest.
// Of a name with both, the digest is what counts.
func parseName(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot understand the image name %q: %w", ref, err))
	}
	if digested, ok := named.(reference.Digested); ok {
		canonical, err := reference.WithDigest(reference.TrimNamed(named), digested.Digest())
		if err != nil {
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot understand the image name %q: %w", ref, err))
		}
		return canonical, nil
	}
	return reference.TagNameOnly(named), nil
}
