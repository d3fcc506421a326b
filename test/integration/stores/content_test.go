package stores_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/berthd/berth/test/testenv"
)

// conversation is one stream of content writes, which is one ingest.
type conversation struct {
	t      testing.TB
	stream contentapi.Content_WriteClient
}

func (s *service) converse(ctx context.Context) conversation {
	s.t.Helper()
	stream, err := s.content().Write(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return conversation{s.t, stream}
}

// ask sends a request and returns the answer.
func (c conversation) ask(r *contentapi.WriteContentRequest) (*contentapi.WriteContentResponse, error) {
	if err := c.stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return c.stream.Recv()
}

func (c conversation) mustAsk(r *contentapi.WriteContentRequest) *contentapi.WriteContentResponse {
	c.t.Helper()
	response, err := c.ask(r)
	if err != nil {
		c.t.Fatalf("%v: %v", r.Action, err)
	}
	return response
}

// hangUp ends the stream, and the store has let go of the ref when it returns.
func (c conversation) hangUp() {
	c.t.Helper()
	if err := c.stream.CloseSend(); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.stream.Recv(); !errors.Is(err, io.EOF) {
		c.t.Fatalf("the stream ended with %v", err)
	}
}

// put commits content as a blob and returns its digest.
func (s *service) put(ctx context.Context, content string, labels map[string]string) string {
	s.t.Helper()
	response := s.converse(ctx).mustAsk(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_COMMIT, Ref: "put " + content, Data: []byte(content), Labels: labels,
	})
	return response.Digest
}

func (s *service) read(ctx context.Context, d string) ([]byte, error) {
	stream, err := s.content().Read(ctx, &contentapi.ReadContentRequest{Digest: d})
	if err != nil {
		return nil, err
	}
	var content bytes.Buffer
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return content.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
		content.Write(response.Data)
	}
}

// blobs returns the digests that the namespace of ctx has.
func (s *service) blobs(ctx context.Context, filters ...string) []string {
	s.t.Helper()
	stream, err := s.content().List(ctx, &contentapi.ListContentRequest{Filters: filters})
	if err != nil {
		s.t.Fatal(err)
	}
	var digests []string
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return digests
		}
		if err != nil {
			s.t.Fatal(err)
		}
		for _, info := range response.Info {
			digests = append(digests, info.Digest)
		}
	}
}

func wantCode(t testing.TB, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("got %v, want code %v", err, want)
	}
}

func startContent(t testing.TB) *service {
	t.Helper()
	return start(t, "berth-contentstore", testenv.ShortDir(t))
}

func TestIngestIsResumedAfterARestart(t *testing.T) {
	s, ctx := startContent(t), namespace(t, "test")
	whole := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	want := digest.FromString(whole).String()
	first := s.converse(ctx)
	const half = 600_000
	first.mustAsk(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_WRITE, Ref: "layer", Total: int64(len(whole)), Expected: want, Data: []byte(whole[:half]),
	})
	first.hangUp()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.start()

	response, err := s.content().Status(ctx, &contentapi.StatusRequest{Ref: "layer"})
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Status; got.Offset != half || got.Total != int64(len(whole)) || got.Expected != want {
		t.Errorf("status %v", got)
	}
	second := s.converse(ctx)
	stood := second.mustAsk(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_STAT, Ref: "layer"})
	if stood.Offset != half || stood.Digest != digest.FromString(whole[:half]).String() {
		t.Errorf("resumed at byte %d, digest %s", stood.Offset, stood.Digest)
	}
	done := second.mustAsk(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_COMMIT, Offset: half, Data: []byte(whole[half:]),
	})
	if got, err := s.read(ctx, done.Digest); err != nil || done.Digest != want || string(got) != whole {
		t.Errorf("committed %s, read %d bytes, %v", done.Digest, len(got), err)
	}
	_, err = s.content().Status(ctx, &contentapi.StatusRequest{Ref: "layer"})
	wantCode(t, err, codes.NotFound)
}

func TestRefIsLockedWhileItIsWritten(t *testing.T) {
	s, ctx := startContent(t), namespace(t, "test")
	begin := &contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Ref: "layer", Data: []byte("x")}
	first := s.converse(ctx)
	first.mustAsk(begin)
	_, err := s.converse(ctx).ask(begin)
	wantCode(t, err, codes.Unavailable)
	if message := status.Convert(err).Message(); !strings.Contains(message, `"layer"`) || !strings.Contains(message, "locked") {
		t.Errorf("message %q", message)
	}
	s.converse(namespace(t, "other")).mustAsk(begin) // the ref is another one there

	first.hangUp()
	second := s.converse(ctx)
	if now := second.mustAsk(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_STAT, Ref: "layer"}); now.Offset != 1 {
		t.Errorf("after the first writer the ingest stands at %d", now.Offset)
	}
	if _, err := s.content().Abort(ctx, &contentapi.AbortRequest{Ref: "layer"}); err != nil {
		t.Fatal(err)
	}
	_, err = second.ask(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_COMMIT})
	wantCode(t, err, codes.Aborted)
}

func TestWrongContentIsNeverVisible(t *testing.T) {
	s, ctx := startContent(t), namespace(t, "test")
	right := digest.FromString("right").String()
	for name, request := range map[string]*contentapi.WriteContentRequest{
		"wrong digest": {Expected: right},
		"too short":    {Total: 100},
		"too long":     {Total: 2},
	} {
		request.Action, request.Ref, request.Data = contentapi.WriteAction_COMMIT, name, []byte("wrong")
		_, err := s.converse(ctx).ask(request)
		wantCode(t, err, codes.FailedPrecondition)
		if message := status.Convert(err).Message(); !strings.Contains(message, name) {
			t.Errorf("%s: message %q does not name the ref", name, message)
		}
	}
	for _, d := range []string{right, digest.FromString("wrong").String()} {
		_, err := s.content().Info(ctx, &contentapi.InfoRequest{Digest: d})
		wantCode(t, err, codes.NotFound)
	}
	if visible := s.blobs(ctx); len(visible) != 0 {
		t.Errorf("visible: %v", visible)
	}
	// The ingest is still there, and the right content, from its beginning, ends it.
	s.converse(ctx).mustAsk(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_COMMIT, Ref: "wrong digest", Data: []byte("right"),
	})
	if got, err := s.read(ctx, right); err != nil || string(got) != "right" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestNamespacesShareNothingVisible(t *testing.T) {
	s := startContent(t)
	a, b := namespace(t, "a"), namespace(t, "b")
	for _, ctx := range []context.Context{a, b} { // without leases they would belong to a containerd, and share
		if _, err := s.leases().Create(ctx, &leasesapi.CreateRequest{ID: "own"}); err != nil {
			t.Fatal(err)
		}
	}
	d := s.put(a, "shared", map[string]string{"of": "a"})
	_, err := s.read(b, d)
	wantCode(t, err, codes.NotFound)
	s.put(b, "shared", map[string]string{"of": "b"})
	if got := s.blobs(b, "labels.of==a"); len(got) != 0 {
		t.Errorf("b sees a's labels on %v", got)
	}
	if _, err := s.content().Delete(a, &contentapi.DeleteContentRequest{Digest: d}); err != nil {
		t.Fatal(err)
	}
	_, err = s.read(a, d)
	wantCode(t, err, codes.NotFound)
	if got, err := s.read(b, d); err != nil || string(got) != "shared" {
		t.Errorf("b reads %q, %v", got, err)
	}
	_, err = s.read(namespace(t, "../../etc"), d)
	wantCode(t, err, codes.InvalidArgument)
}

func TestLabelsSurviveARestart(t *testing.T) {
	s, ctx := startContent(t), namespace(t, "test")
	d := s.put(ctx, "x", map[string]string{"keep": "1", "change": "2", "drop": "3"})
	_, err := s.content().Update(ctx, &contentapi.UpdateRequest{
		Info:       &contentapi.Info{Digest: d, Labels: map[string]string{"change": "new"}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels.change", "labels.drop"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.kill()
	s.start()
	response, err := s.content().Info(ctx, &contentapi.InfoRequest{Digest: d})
	if want := map[string]string{"keep": "1", "change": "new"}; err != nil || !maps.Equal(response.Info.Labels, want) {
		t.Errorf("labels %v, %v; want %v", response, err, want)
	}
	if got := s.blobs(ctx, "labels.change==new"); !slices.Equal(got, []string{d}) {
		t.Errorf("found by label: %v", got)
	}
}

func TestLeaseKeepsContentUntilItExpires(t *testing.T) {
	s, ctx := startContent(t), namespace(t, "test")
	// The label has a resolution of a second; the lease ends within the next two.
	end := time.Now().Add(2 * time.Second).Truncate(time.Second)
	_, err := s.leases().Create(ctx, &leasesapi.CreateRequest{
		ID: "pull", Labels: map[string]string{"containerd.io/gc.expire": end.Format(time.RFC3339)},
	})
	if err != nil {
		t.Fatal(err)
	}
	collect := func() {
		t.Helper()
		lease, err := s.leases().Create(ctx, &leasesapi.CreateRequest{})
		if err == nil {
			_, err = s.leases().Delete(ctx, &leasesapi.DeleteRequest{ID: lease.Lease.ID, Sync: true})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	layer := s.put(ctx, "layer", nil)
	manifest := s.put(metadata.AppendToOutgoingContext(ctx, "containerd-lease", "pull"), "manifest",
		map[string]string{"containerd.io/gc.ref.content.l.0": layer})
	stray := s.put(ctx, "stray", nil)
	if time.Now().Before(end) {
		collect()
		got := s.blobs(ctx)
		if time.Now().Before(end) && (!slices.Contains(got, layer) || !slices.Contains(got, manifest) || slices.Contains(got, stray)) {
			t.Errorf("while the lease lasts there are %v; want %s and %s", got, layer, manifest)
		}
	}
	s.kill() // a lease outlives the process
	s.start()
	testenv.Until(t, 10*time.Second, "the expired lease lets go", func() error {
		collect()
		if got := s.blobs(ctx); len(got) != 0 {
			return errors.New(strings.Join(got, ", "))
		}
		return nil
	})
	if time.Now().Before(end) {
		t.Error("the content went before the lease had expired")
	}
	leases, err := s.leases().List(ctx, &leasesapi.ListRequest{})
	if err != nil || len(leases.Leases) != 0 {
		t.Errorf("leases left: %v, %v", leases, err)
	}
}
