package images_test

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// noise is content that does not compress, the same in each run.
func noise(size int) string {
	random := rand.NewChaCha8([32]byte{1})
	content := make([]byte, size)
	_, _ = random.Read(content)
	return string(content)
}

func TestPullUnpacksEachKindOfLayer(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	base := plain(archive(t, file("etc/os-release", "ID=test\n"), file("etc/motd", "old"), file("srv/site/old.html", "old"), entry("bin", tar.TypeSymlink, "usr/bin"), entry("usr/bin", tar.TypeDir, "")))
	second := gzipped(t, archive(t, file("etc/.wh.motd", ""), file("bin/hello", "#!hello")))
	third := zstandard(t, archive(t, file("srv/site/.wh..wh..opq", ""), file("srv/site/new.html", "new"),
		entry("pipe", tar.TypeFifo, ""), tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}))
	made := r.push("kinds", "latest", nil, base, second, third)

	p := h.mustPull(r.host + "/kinds")
	if p.result.GetImageId() != made.config.Digest.String() || p.result.GetDigest() != made.manifest.Digest.String() ||
		p.result.GetReference() != r.host+"/kinds:latest" || !p.result.GetUpdated() {
		t.Errorf("the result is %v, want %+v", p.result, made)
	}
	for _, l := range made.layers {
		phases := p.phases(l.digest())
		if len(phases) == 0 || phases[0] != berthv1.Phase_PHASE_WAITING || phases[len(phases)-1] != berthv1.Phase_PHASE_DONE {
			t.Errorf("the phases of layer %s are %v", l.digest(), phases)
		}
	}
	h.look(made.chainID, func(root string) {
		var files []string
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files = append(files, strings.TrimPrefix(path, root+"/"))
			}
			return err
		})
		want := []string{"bin", "etc/os-release", "null", "pipe", "srv/site/new.html", "usr/bin/hello"}
		if err != nil || !slices.Equal(files, want) {
			t.Errorf("the image has %q, %v; want %q", files, err, want)
		}
	})
}

func TestPullAgainFetchesNothing(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("again", "latest", nil, gzipped(t, archive(t, file("a", "1"))), gzipped(t, archive(t, file("b", "2"))))
	more := r.push("again", "more", nil, made.layers[0], made.layers[1], gzipped(t, archive(t, file("c", "3"))))
	x := newProxy(t, r)
	h.mustPull(x.host + "/again")
	x.do(nil)
	p := h.mustPull(x.host + "/again")
	if p.result.GetUpdated() {
		t.Error("the second pull says that it changed something")
	}
	for _, l := range made.layers {
		if phases := p.phases(l.digest()); phases[len(phases)-1] != berthv1.Phase_PHASE_EXISTS {
			t.Errorf("the phases of layer %s are %v", l.digest(), phases)
		}
	}
	h.mustPull(x.host + "/again:more")
	for _, l := range made.layers {
		if gets := x.gets(l.digest()); len(gets) > 0 {
			t.Errorf("layer %s was fetched again", l.digest())
		}
	}
	if gets := x.gets(more.layers[2].digest()); len(gets) != 1 {
		t.Errorf("the new layer was fetched %d times", len(gets))
	}
}

// rangeStart is the first byte that a request asks for.
func rangeStart(t testing.TB, request *http.Request) (first int64) {
	t.Helper()
	header := request.Header.Get("Range")
	if header == "" {
		return 0
	}
	if _, err := fmt.Sscanf(header, "bytes=%d-", &first); err != nil || first == 0 {
		t.Errorf("a request has the range %q: %v", header, err)
	}
	return first
}

func TestPullContinuesACutTransfer(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("cut", "latest", nil, plain(archive(t, file("noise", noise(5<<20)))))
	x := newProxy(t, r)
	big := made.layers[0].digest()
	x.do(cut(big, 2<<20))
	p := h.mustPull(x.host + "/cut")
	if !slices.Contains(p.phases(big), berthv1.Phase_PHASE_RETRYING) {
		t.Errorf("no phase says that the transfer was retried: %v", p.phases(big))
	}
	// A connection that breaks may take with it what was on its way.
	last := int64(-1)
	for i, request := range x.gets(big) {
		from := rangeStart(t, request)
		if from <= last || from > int64(i)*2<<20 {
			t.Errorf("request %d begins at %d, the one before at %d", i, from, last)
		}
		last = from
	}
	if last < 3<<20 {
		t.Errorf("the last request begins at %d: what was there before was not used", last)
	}
	h.look(made.chainID, func(root string) {
		content, err := os.ReadFile(filepath.Join(root, "noise"))
		if err != nil || string(content) != noise(5<<20) {
			t.Errorf("the file has %d bytes or others, %v", len(content), err)
		}
	})
}

// The registry stops half-way and stays away, berthd is killed, and the next pull goes on where the first was.
func TestPullContinuesAfterKill(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("killed", "latest", nil, gzipped(t, archive(t, file("small", "1"))), plain(archive(t, file("noise", noise(4<<20)))))
	x := newProxy(t, r)
	big := made.layers[1].digest()
	x.do(func(response *http.Response) error {
		if strings.HasSuffix(response.Request.URL.Path, big) {
			after := int64(2 << 20)
			if response.Request.Header.Get("Range") != "" {
				after = 0
			}
			response.Body = &cutBody{ReadCloser: response.Body, left: after}
		}
		return nil
	})
	_, err := h.pull(&berthv1.PullImageRequest{Reference: x.host + "/killed"})
	wantCode(t, err, codes.Unavailable, "killed")
	h.wantNothingLeft()

	h.Kill()
	h.Start()
	x.do(nil)
	h.mustPull(x.host + "/killed")
	gets := x.gets(big)
	if len(gets) != 1 || rangeStart(t, gets[0]) < 1<<20 || rangeStart(t, gets[0]) > 2<<20 {
		t.Errorf("after the kill the layer was asked for with %v", gets)
	}
}

func TestPullRefusesWrongContent(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("wrong", "latest", nil, gzipped(t, archive(t, file("a", "1"))), gzipped(t, archive(t, file("b", noise(1<<20)))))
	x := newProxy(t, r)
	for what, digest := range map[string]string{
		"layer": made.layers[1].digest(), "configuration": made.config.Digest.String(), "manifest": "/manifests/" + made.manifest.Digest.String(),
	} {
		t.Run(what, func(t *testing.T) {
			x.do(corrupt(digest))
			_, err := h.pull(&berthv1.PullImageRequest{Reference: x.host + "/wrong@" + made.manifest.Digest.String()})
			wantCode(t, err, codes.DataLoss, "wrong", "digest")
			h.wantNothingLeft()
		})
	}
	x.do(nil)
	h.mustPull(x.host + "/wrong")
}

// A layer whose archive is not the one that the configuration promises is somebody's mistake, or worse.
func TestPullRefusesAWrongDiffID(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	r.push("diff", "latest", func(config *ocispec.Image) {
		config.RootFS.DiffIDs[1] = config.RootFS.DiffIDs[0]
	}, gzipped(t, archive(t, file("a", "1"))), gzipped(t, archive(t, file("b", "2"))))
	_, err := h.pull(&berthv1.PullImageRequest{Reference: r.host + "/diff"})
	wantCode(t, err, codes.DataLoss, "promises")
	h.wantNothingLeft()
}

func TestPullSaysWhatIsWrong(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("known", "latest", nil, gzipped(t, archive(t, file("a", "1"))))
	r.push("arm", "latest", func(config *ocispec.Image) { config.Architecture = "arm64" }, made.layers[0])
	r.push("windows", "latest", func(config *ocispec.Image) { config.OS = "windows" }, made.layers[0])
	r.push("uneven", "latest", func(config *ocispec.Image) { config.RootFS.DiffIDs = nil }, made.layers[0])
	x := newProxy(t, r)
	cases := []struct {
		name, reference string
		platform        *berthv1.Platform
		spoil           func(*http.Response) error
		code            codes.Code
		words           string
	}{
		{"no repository", x.host + "/unknown", nil, nil, codes.NotFound, "unknown"},
		{"no tag", x.host + "/known:other", nil, nil, codes.NotFound, "known:other"},
		{"no such digest", x.host + "/known@sha256:" + strings.Repeat("0", 64), nil, nil, codes.NotFound, "sha256:0000"},
		{"upper case", x.host + "/Known", nil, nil, codes.InvalidArgument, "Known"},
		{"empty", "", nil, nil, codes.InvalidArgument, "name"},
		{"malformed tag", x.host + "/known:a:b", nil, nil, codes.InvalidArgument, "known:a:b"},
		{"malformed digest", x.host + "/known@sha256:123", nil, nil, codes.InvalidArgument, "sha256:123"},
		{"nobody listens", testenv.FreeAddress(t) + "/known", nil, nil, codes.Unavailable, "refused"},
		{"unauthorized", x.host + "/known", nil, answer("/manifests/latest", 401), codes.Unauthenticated, "known"},
		{"forbidden", x.host + "/known", nil, answer("/manifests/latest", 403), codes.PermissionDenied, "known"},
		{"broken registry", x.host + "/known", nil, answer(made.layers[0].digest(), 500), codes.Unavailable, "500"},
		{"layer that is gone", x.host + "/known", nil, answer(made.layers[0].digest(), 404), codes.NotFound, "404"},
		{"other platform", x.host + "/arm", &berthv1.Platform{Architecture: "amd64"}, nil, codes.NotFound, "arm64"},
		{"other system", x.host + "/windows", nil, nil, codes.FailedPrecondition, "windows"},
		{"layers without digests", x.host + "/uneven", nil, nil, codes.InvalidArgument, "layers"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			x.do(c.spoil)
			_, err := h.pull(&berthv1.PullImageRequest{Reference: c.reference, Platform: c.platform})
			wantCode(t, err, c.code, c.words)
			h.wantNothingLeft()
		})
	}
}

func TestPullRefusesHostileLayers(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	secret := filepath.Join(testenv.ShortDir(t), "secret")
	if err := os.WriteFile(secret, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 12)
	cases := []struct {
		name  string
		layer layer
		code  codes.Code // OK: what it means lies inside
	}{
		{"dots", gzipped(t, archive(t, file(up+secret, "evil"))), codes.InvalidArgument},
		{"absolute name", gzipped(t, archive(t, file(secret, "evil"))), codes.OK},
		{"absolute link", gzipped(t, archive(t, entry("out", tar.TypeSymlink, filepath.Dir(secret)), file("out/secret", "evil"))), codes.OK},
		{"relative link", gzipped(t, archive(t, entry("out", tar.TypeSymlink, up+filepath.Dir(secret)), file("out/secret", "evil"))), codes.OK},
		{"hard link with dots", gzipped(t, archive(t, entry("a", tar.TypeLink, up+secret))), codes.InvalidArgument},
		{"hard link to an absolute path", gzipped(t, archive(t, entry("a", tar.TypeLink, secret))), codes.InvalidArgument},
		{"whiteout through a link", gzipped(t, archive(t, entry("out", tar.TypeSymlink, filepath.Dir(secret)), file("out/.wh.secret", ""))), codes.OK},
		{"whiteout of dots", gzipped(t, archive(t, file("a/.wh...", ""))), codes.InvalidArgument},
		{"no archive", gzipped(t, []byte(noise(4096))), codes.InvalidArgument},
		{"cut archive", gzipped(t, archive(t, file("a", noise(4096)))[:2000]), codes.InvalidArgument},
		{"rubbish in place of gzip", layer{mediaType: ocispec.MediaTypeImageLayerGzip, archive: []byte("x"), blob: append([]byte{0x1f, 0x8b}, noise(100)...)}, codes.InvalidArgument},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			repository := "hostile" + string(rune('a'+i))
			r.push(repository, "latest", nil, gzipped(t, archive(t, file("base", "1"))), c.layer)
			_, err := h.pull(&berthv1.PullImageRequest{Reference: r.host + "/" + repository})
			wantCode(t, err, c.code)
			content, readErr := os.ReadFile(secret)
			if readErr != nil || string(content) != "untouched" {
				t.Errorf("the file outside has %q, %v", content, readErr)
			}
			if c.code == codes.OK {
				_, err := h.images.RemoveImage(t.Context(), &berthv1.RemoveImageRequest{Image: r.host + "/" + repository})
				wantCode(t, err, codes.OK)
			}
			h.wantNothingLeft()
		})
	}
}

// What a layer unpacks to is bounded by what berthd is told, and by default so that honest holes pass, however well they
// are compressed.
func TestPullBoundsWhatLayersTake(t *testing.T) {
	testenv.NeedRoot(t)
	h, r := newHostOn(t, testenv.ShortDir(t), "--max-layer-size", "64MiB", "--max-layer-entries", "100"), newRegistry(t)
	var many []tar.Header
	for i := range 101 {
		many = append(many, file(strconv.Itoa(i), ""))
	}
	for name, c := range map[string]struct {
		layer layer
		word  string
	}{
		"zeros": {bombOf(t, 65<<20), "67108864 bytes"}, "files": {gzipped(t, archive(t, many...)), "100 files and directories"},
	} {
		r.push(name, "latest", nil, c.layer)
		_, err := h.pull(&berthv1.PullImageRequest{Reference: r.host + "/" + name})
		wantCode(t, err, codes.ResourceExhausted, c.word)
		h.wantNothingLeft()
	}
	usual := newHost(t)
	made := r.push("holes", "latest", nil, bombOf(t, 1<<30+1<<20))
	usual.mustPull(r.host + "/holes")
	usual.look(made.chainID, func(root string) {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(root, "zeros"), &st); err != nil || st.Size != 1<<30+1<<20 || st.Blocks*512 > 1<<20 {
			t.Errorf("a file of zeros has %d bytes and takes %d, %v", st.Size, st.Blocks*512, err)
		}
	})
}

func TestPullRefusesTooManyLayers(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("many", "one", nil, gzipped(t, archive(t, file("a", "1"))))
	one := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(made.layers[0].blob), Size: int64(len(made.layers[0].blob))}
	r.pushManifest("many", "latest", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: made.config,
		Layers: slices.Repeat([]ocispec.Descriptor{one}, 501),
	})
	_, err := h.pull(&berthv1.PullImageRequest{Reference: r.host + "/many"})
	wantCode(t, err, codes.InvalidArgument, "501 layers")
	h.wantNothingLeft()
}

// A size decides what a layer may unpack to: a manifest must not lie about it, also of a blob that is here already.
func TestPullRefusesTwoSizesOfABlob(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	content := gzipped(t, archive(t, file("a", "1")))
	made := r.push("app", "latest", nil, content, content)
	h.mustPull(r.host + "/app")
	desc := ocispec.Descriptor{MediaType: content.mediaType, Digest: digest.FromBytes(content.blob), Size: int64(len(content.blob))}
	lie := desc
	lie.Size = 1 << 40
	r.pushManifest("app", "lie", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: made.config, Layers: []ocispec.Descriptor{desc, lie},
	})
	_, err := h.pull(&berthv1.PullImageRequest{Reference: r.host + "/app:lie"})
	wantCode(t, err, codes.DataLoss, "descriptor says 1099511627776")
}

// Images of types that other tools write, or wrote.
func TestPullTakesEachLegalType(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	content := archive(t, file("a", "1"))
	const docker = "application/vnd.docker.image.rootfs"
	for i, mediaType := range []string{
		docker + ".diff.tar", docker + ".diff.tar.gzip", docker + ".diff.tar.zstd", docker + ".foreign.diff.tar.gzip",
		ocispec.MediaTypeImageLayerNonDistributable, ocispec.MediaTypeImageLayerNonDistributableGzip, ocispec.MediaTypeImageLayerNonDistributableZstd, //nolint:staticcheck // images have them
	} {
		l := plain(content)
		switch {
		case strings.HasSuffix(mediaType, "gzip"):
			l = gzipped(t, content)
		case strings.HasSuffix(mediaType, "zstd"):
			l = zstandard(t, content)
		}
		l.mediaType = mediaType
		repository := fmt.Sprintf("type%d", i)
		made := r.push(repository, "oci", nil, l)
		h.mustPull(r.host + "/" + repository + ":oci")
		manifest := map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
			"config": ocispec.Descriptor{MediaType: "application/octet-stream", Digest: made.config.Digest, Size: made.config.Size},
			"layers": []ocispec.Descriptor{{MediaType: mediaType, Digest: digest.FromBytes(l.blob), Size: int64(len(l.blob)), URLs: []string{"http://127.0.0.1:1/"}}},
		}
		if strings.Contains(mediaType, "nondistributable") || strings.Contains(mediaType, "foreign") {
			continue // docker-registry takes those without URLs only
		}
		r.pushManifest(repository, "docker", "application/vnd.docker.distribution.manifest.v2+json", manifest)
		h.mustPull(r.host + "/" + repository + ":docker")
	}
}

func TestPullChoosesThePlatform(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := map[string]image{}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, architecture := range []string{"arm64", "amd64", "s390x"} {
		m := r.push("multi", "", func(config *ocispec.Image) { config.Architecture = architecture }, gzipped(t, archive(t, file(architecture, "1"))))
		made[architecture] = m
		m.manifest.Platform = &ocispec.Platform{OS: "linux", Architecture: architecture}
		index.Manifests = append(index.Manifests, m.manifest)
	}
	attestation := r.push("multi", "", nil, gzipped(t, archive(t, file("attestation", "1"))))
	attestation.manifest.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	index.Manifests = append([]ocispec.Descriptor{attestation.manifest}, index.Manifests...)
	top := r.pushManifest("multi", "latest", ocispec.MediaTypeImageIndex, index)

	for _, architecture := range []string{"amd64", "arm64", "aarch64"} {
		p, err := h.pull(&berthv1.PullImageRequest{Reference: r.host + "/multi", Platform: &berthv1.Platform{Architecture: architecture}})
		wantCode(t, err, codes.OK)
		want := made[strings.Replace(architecture, "aarch64", "arm64", 1)]
		if p.result.GetImageId() != want.config.Digest.String() || p.result.GetDigest() != top.Digest.String() {
			t.Errorf("for %s came %v, want %s of %s", architecture, p.result, want.config.Digest, top.Digest)
		}
	}
	_, err := h.pull(&berthv1.PullImageRequest{Reference: r.host + "/multi", Platform: &berthv1.Platform{Architecture: "riscv64"}})
	wantCode(t, err, codes.NotFound, "linux/riscv64", "linux/s390x")
}

func TestPullsAtOnceFetchOnce(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("many", "latest", nil, gzipped(t, archive(t, file("a", noise(1<<20)))), gzipped(t, archive(t, file("b", "2"))))
	x := newProxy(t, r)
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			if _, err := h.pull(&berthv1.PullImageRequest{Reference: x.host + "/many"}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, l := range made.layers {
		if gets := x.gets(l.digest()); len(gets) != 1 {
			t.Errorf("layer %s was fetched %d times", l.digest(), len(gets))
		}
	}
	if images := h.list(); len(images) != 1 {
		t.Errorf("there are %d images", len(images))
	}
}

// A client that goes away ends its pull; what it leaves is nothing, and the next pull works.
func TestPullEndsWithItsClient(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	made := r.push("left", "latest", nil, plain(archive(t, file("noise", noise(3<<20)))))
	x := newProxy(t, r)
	asked := make(chan struct{}, 1)
	x.do(func(response *http.Response) error {
		if strings.HasSuffix(response.Request.URL.Path, made.layers[0].digest()) {
			asked <- struct{}{}
			<-response.Request.Context().Done() // berthd hangs up
			return http.ErrAbortHandler
		}
		return nil
	})
	ctx, cancel := contextWithCancel(t)
	stream, err := h.images.PullImage(ctx, &berthv1.PullImageRequest{Reference: x.host + "/left"})
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, err, codes.Canceled)
	x.do(nil)
	h.mustPull(x.host + "/left")
}
