package images_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func contextWithCancel(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

func (h *host) tag(source, target string) error {
	_, err := h.images.TagImage(h.t.Context(), &berthv1.TagImageRequest{Source: source, Target: target})
	return err
}

func (h *host) remove(reference string, force bool) (*berthv1.RemoveImageResponse, error) {
	return h.images.RemoveImage(h.t.Context(), &berthv1.RemoveImageRequest{Image: reference, Force: force})
}

func TestImagesAreFoundByTheirNames(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("web", "v1", nil, gzipped(t, archive(t, file("a", "1"))))
	h.mustPull(r.host + "/web:v1")
	if err := h.tag(r.host+"/web:v1", "web"); err != nil {
		t.Fatal(err)
	}
	id := made.config.Digest.String()
	for _, reference := range []string{
		r.host + "/web:v1", r.host + "/web@" + made.manifest.Digest.String(), "web", "web:latest", "library/web", "docker.io/library/web:latest",
		id, id[len("sha256:"):], id[len("sha256:"):][:12], id[:len("sha256:")+8], made.manifest.Digest.String(),
	} {
		if got := h.inspect(reference).GetId(); got != id {
			t.Errorf("%s is %s, want %s", reference, got, id)
		}
	}
	for reference, code := range map[string]codes.Code{
		"web:v1": codes.NotFound, r.host + "/web": codes.NotFound, "ffffffffffff": codes.NotFound, "WEB": codes.InvalidArgument, "": codes.InvalidArgument,
	} {
		_, err := h.images.InspectImage(t.Context(), &berthv1.InspectImageRequest{Image: reference})
		wantCode(t, err, code, reference)
	}
	got := h.inspect("web")
	if !slices.Equal(got.GetTags(), []string{r.host + "/web:v1", "docker.io/library/web:latest"}) ||
		!slices.Equal(got.GetDigests(), []string{r.host + "/web@" + made.manifest.Digest.String()}) {
		t.Errorf("the names are %q and %q", got.GetTags(), got.GetDigests())
	}
	if got.GetAuthor() != "tester" || got.GetPlatform().GetArchitecture() != "amd64" || got.GetSize() == 0 ||
		!slices.Equal(got.GetConfig().GetCmd(), []string{"/hello"}) || got.GetLabels()["repository"] != "web" || len(got.GetLayers()) != 1 {
		t.Errorf("the image is %v", got)
	}
}

func TestRemoveTakesNamesThenTheImage(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("web", "v1", nil, gzipped(t, archive(t, file("a", "1"))), gzipped(t, archive(t, file("b", "1"))))
	pulled := r.host + "/web:v1"
	h.mustPull(pulled)
	for _, name := range []string{"one", "two"} {
		if err := h.tag(pulled, name); err != nil {
			t.Fatal(err)
		}
	}
	id := made.config.Digest.String()
	_, err := h.remove(id[len("sha256:"):][:12], false)
	wantCode(t, err, codes.FailedPrecondition, "force", "one:latest")

	response, err := h.remove("one", false)
	wantCode(t, err, codes.OK)
	if !slices.Equal(response.GetUntagged(), []string{"docker.io/library/one:latest"}) || len(response.GetDeleted()) > 0 {
		t.Errorf("removing one of three names answered %v", response)
	}
	response, err = h.remove(pulled, false)
	wantCode(t, err, codes.OK)
	if len(response.GetUntagged()) != 2 || len(response.GetDeleted()) > 0 {
		t.Errorf("removing the last tag of a repository answered %v, want the digest to go with it", response)
	}
	response, err = h.remove(id, false)
	wantCode(t, err, codes.OK)
	if !slices.Equal(response.GetDeleted(), []string{id}) {
		t.Errorf("removing the last name answered %v", response)
	}
	h.wantNothingLeft()
	_, err = h.remove("two", false)
	wantCode(t, err, codes.NotFound, "two")
}

// Layers that two images share stay as long as one of them.
func TestRemoveKeepsWhatOthersNeed(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	shared := gzipped(t, archive(t, file("shared", "1")))
	r.push("one", "latest", nil, shared, gzipped(t, archive(t, file("a", "1"))))
	two := r.push("two", "latest", nil, shared, gzipped(t, archive(t, file("b", "1"))))
	h.mustPull(r.host + "/one")
	h.mustPull(r.host + "/two")
	if blobs := h.blobs(); len(blobs) != 7 {
		t.Errorf("two images have %d blobs, want 7: %v", len(blobs), blobs)
	}
	if _, err := h.remove(r.host+"/one", false); err != nil {
		t.Fatal(err)
	}
	if blobs := h.blobs(); len(blobs) != 4 {
		t.Errorf("one image has %d blobs, want 4: %v", len(blobs), blobs)
	}
	if keys := h.snapshotKeys(); len(keys) != 2 || !slices.Contains(keys, two.chainID) {
		t.Errorf("the snapshots are %v", keys)
	}
	if _, err := h.remove(r.host+"/two", false); err != nil {
		t.Fatal(err)
	}
	h.wantNothingLeft()
}

// A name that now stands for another image leaves the old one without a tag.
func TestPullMovesTheName(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	first := r.push("app", "latest", nil, gzipped(t, archive(t, file("a", "1"))))
	h.mustPull(r.host + "/app")
	second := r.push("app", "latest", func(config *ocispec.Image) { config.Config.Labels["new"] = "yes" }, gzipped(t, archive(t, file("a", "2"))))
	if p := h.mustPull(r.host + "/app"); !p.result.GetUpdated() {
		t.Error("the pull of a new image says that nothing is new")
	}
	if got := h.inspect(r.host + "/app").GetId(); got != second.config.Digest.String() {
		t.Errorf("the name stands for %s", got)
	}
	dangling := h.list(&berthv1.Filter{Key: "dangling", Values: []string{"true"}})
	if len(dangling) != 1 || dangling[0].GetId() != first.config.Digest.String() {
		t.Errorf("without a tag are %v", dangling)
	}
	labelled := h.list(&berthv1.Filter{Key: "label", Values: []string{"new=yes"}})
	if len(labelled) != 1 || labelled[0].GetId() != second.config.Digest.String() {
		t.Errorf("with the label are %v", labelled)
	}
	if got := h.list(&berthv1.Filter{Key: "reference", Values: []string{r.host + "/*:latest"}}); len(got) != 1 {
		t.Errorf("the pattern fits %v", got)
	}
	_, err := h.images.ListImages(t.Context(), &berthv1.ListImagesRequest{Filters: []*berthv1.Filter{{Key: "colour", Values: []string{"red"}}}})
	wantCode(t, err, codes.InvalidArgument, "colour")
	if _, err := h.remove(first.config.Digest.String(), false); err != nil {
		t.Fatal(err)
	}
	h.mustPull(r.host + "/app")
}

// Configurations may have megabytes of labels. A list of such images still fits into a response.
func TestListOfLargeConfigurations(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	for i := range 6 {
		name := fmt.Sprintf("large%d", i)
		r.push(name, "latest", func(config *ocispec.Image) { config.Config.Labels["large"] = strings.Repeat("x", 7<<19) }, gzipped(t, archive(t, file("a", name))))
		h.mustPull(r.host + "/" + name)
	}
	list := h.list()
	if len(list) != 6 {
		t.Fatalf("%d images are listed", len(list))
	}
	for _, image := range list {
		if image.GetConfig() != nil || len(image.GetTags()) != 1 || image.GetSize() == 0 {
			t.Errorf("listed is %.200v", image)
		}
	}
}

// A record that can't be read costs its image, not the daemon.
func TestDamagedRecordDoesNotKeepTheDaemonFromStarting(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	bad := r.push("bad", "latest", nil, gzipped(t, archive(t, file("a", "1"))))
	r.push("good", "latest", nil, gzipped(t, archive(t, file("a", "2"))))
	h.mustPull(r.host + "/bad")
	h.mustPull(r.host + "/good")
	h.Stop()
	db, err := bbolt.Open(filepath.Join(h.Root, "manager.db"), 0o600, &bbolt.Options{Timeout: limit})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("images")).Put([]byte(bad.config.Digest.String()), []byte(`{"version":1,"record":{"config":"e"}}`))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	h.Start()
	if list := h.list(); len(list) != 1 || list[0].GetTags()[0] != r.host+"/good:latest" {
		t.Errorf("listed are %v", list)
	}
	h.mustPull(r.host + "/bad")
	if list := h.list(); len(list) != 2 {
		t.Errorf("listed are %v", list)
	}
}

func TestImagesSurviveTheDaemon(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("kept", "latest", nil, gzipped(t, archive(t, file("a", "1"))))
	h.mustPull(r.host + "/kept")
	if err := h.tag(r.host+"/kept", "other:v2"); err != nil {
		t.Fatal(err)
	}
	before, blobs := h.inspect("other:v2"), h.blobs()
	h.Kill()
	h.Start()
	after := h.inspect("other:v2")
	if after.GetId() != before.GetId() || !slices.Equal(after.GetTags(), before.GetTags()) || !after.GetTaggedAt().AsTime().Equal(before.GetTaggedAt().AsTime()) {
		t.Errorf("before the kill %v, after it %v", before, after)
	}
	if got := h.blobs(); !slices.Equal(got, blobs) {
		t.Errorf("blobs %v, were %v", got, blobs)
	}
	h.look(made.chainID, func(string) {})
}

func TestTagRefusesWhatIsNoName(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("app", "latest", nil, gzipped(t, archive(t, file("a", "1"))))
	h.mustPull(r.host + "/app")
	for target, code := range map[string]codes.Code{
		"UPPER": codes.InvalidArgument, "": codes.InvalidArgument, "app@" + made.manifest.Digest.String(): codes.InvalidArgument,
		strings.Repeat("a", 64): codes.InvalidArgument,
	} {
		wantCode(t, h.tag(r.host+"/app", target), code)
	}
	wantCode(t, h.tag("nothing", "else"), codes.NotFound, "nothing")
}

func TestHistoryAndWhatIsNotBuilt(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	r.push("app", "latest", func(config *ocispec.Image) {
		config.History = []ocispec.History{{CreatedBy: "first"}, {CreatedBy: "second", EmptyLayer: true}}
	}, gzipped(t, archive(t, file("a", strings.Repeat("x", 10000)))))
	h.mustPull(r.host + "/app")
	history, err := h.images.HistoryImage(t.Context(), &berthv1.HistoryImageRequest{Image: r.host + "/app"})
	wantCode(t, err, codes.OK)
	entries := history.GetEntries()
	if len(entries) != 2 || entries[0].GetCreatedBy() != "second" || entries[0].GetSize() != 0 || entries[1].GetSize() < 10000 {
		t.Errorf("the history is %v", entries)
	}
	_, err = h.images.PruneImages(t.Context(), &berthv1.PruneImagesRequest{})
	wantCode(t, err, codes.Unimplemented, "pruning images")
}

func (h *host) push(reference string) (*berthv1.PushResult, error) {
	stream, err := h.images.PushImage(h.t.Context(), &berthv1.PushImageRequest{Reference: reference})
	if err != nil {
		return nil, err
	}
	var result *berthv1.PushResult
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return result, nil
		}
		if err != nil {
			return nil, err
		}
		if message.GetResult() != nil {
			result = message.GetResult()
		}
	}
}

// What is pushed under another name comes back as the same image, from a registry that loses connections.
func TestPushSendsTheWholeImage(t *testing.T) {
	h, from, to := newHost(t), newRegistry(t), newRegistry(t)
	same := gzipped(t, archive(t, file("same", "1")))
	made := from.push("app", "latest", nil, same, zstandard(t, archive(t, file("b", noise(2<<20)))), same)
	h.mustPull(from.host + "/app")
	x := newProxy(t, to)
	failures := 0
	x.do(func(response *http.Response) error {
		if response.Request.Method == http.MethodPost && failures < 2 {
			failures++
			return http.ErrAbortHandler
		}
		return nil
	})
	target := x.host + "/copies/app:v2"
	_, err := h.push(target)
	wantCode(t, err, codes.NotFound, "copies/app:v2")
	if err := h.tag(from.host+"/app", target); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		result, err := h.push(target)
		wantCode(t, err, codes.OK)
		if result.GetReference() != target || result.GetDigest() != made.manifest.Digest.String() {
			t.Errorf("the push answered %v, want %s", result, made.manifest.Digest)
		}
	}
	for _, name := range []string{target, from.host + "/app"} {
		if _, err := h.remove(name, false); err != nil {
			t.Fatal(err)
		}
	}
	h.wantNothingLeft()
	if p := h.mustPull(to.host + "/copies/app:v2"); p.result.GetImageId() != made.config.Digest.String() {
		t.Errorf("what comes back is %v", p.result)
	}
	_, err = h.push(to.host + "/copies/app@" + made.manifest.Digest.String())
	wantCode(t, err, codes.InvalidArgument, "digest")
}
