package contentstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	stat   = contentapi.WriteAction_STAT
	write  = contentapi.WriteAction_WRITE
	commit = contentapi.WriteAction_COMMIT
)

// exchange sends a request on a stream and returns the answer.
func exchange(t testing.TB, stream contentapi.Content_WriteClient, r *contentapi.WriteContentRequest) (*contentapi.WriteContentResponse, error) {
	t.Helper()
	if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return stream.Recv()
}

func mustExchange(t testing.TB, stream contentapi.Content_WriteClient, r *contentapi.WriteContentRequest) *contentapi.WriteContentResponse {
	t.Helper()
	response, err := exchange(t, stream, r)
	if err != nil {
		t.Fatalf("%v: %v", r.Action, err)
	}
	return response
}

// hangUp ends a stream and waits until the store has let go of its ref.
func hangUp(t testing.TB, stream contentapi.Content_WriteClient) {
	t.Helper()
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("the stream ended with %v", err)
	}
}

func TestInterruptedIngestIsResumed(t *testing.T) {
	dir := t.TempDir()
	c := openClient(t, dir)
	whole := "first half, second half"
	want := digest.FromString(whole).String()
	stream := c.stream()
	mustExchange(t, stream, &contentapi.WriteContentRequest{
		Action: write, Ref: "layer", Total: int64(len(whole)), Expected: want, Data: []byte(whole[:11]),
	})
	hangUp(t, stream)

	response, err := c.blobs.Status(c.ctx, &contentapi.StatusRequest{Ref: "layer"})
	if err != nil {
		t.Fatal(err)
	}
	if s := response.Status; s.Offset != 11 || s.Total != int64(len(whole)) || s.Expected != want || s.StartedAt == nil {
		t.Errorf("status %v", s)
	}
	stream = c.stream()
	now := mustExchange(t, stream, &contentapi.WriteContentRequest{Action: stat, Ref: "layer"})
	if now.Offset != 11 || now.Digest != digest.FromString(whole[:11]).String() {
		t.Errorf("resumed at %v", now)
	}
	done := mustExchange(t, stream, &contentapi.WriteContentRequest{Action: commit, Offset: 11, Data: []byte(whole[11:])})
	if done.Digest != want || done.Offset != int64(len(whole)) {
		t.Errorf("commit answered %v", done)
	}
	if got, err := c.get(want); err != nil || got != whole {
		t.Errorf("read %q, %v", got, err)
	}
	_, err = c.blobs.Status(c.ctx, &contentapi.StatusRequest{Ref: "layer"})
	wantCode(t, err, codes.NotFound)
}

// TestEachAnswerHasTheDigest asks as containerd's clients do: they know of a digest only what the last answer said.
func TestEachAnswerHasTheDigest(t *testing.T) {
	c := openClient(t, t.TempDir())
	stream := c.stream()
	for i, part := range []string{"a", "b"} {
		answer := mustExchange(t, stream, &contentapi.WriteContentRequest{Action: write, Ref: "r", Offset: int64(i), Data: []byte(part)})
		if want := digest.FromString("ab"[:i+1]).String(); answer.Digest != want {
			t.Errorf("the digest of %d bytes is %q, want %s", i+1, answer.Digest, want)
		}
	}
}

func TestTimeOfAnIngestDoesNotGoBack(t *testing.T) {
	c := openClient(t, t.TempDir())
	var last time.Time
	notBefore := func(what string, at *timestamppb.Timestamp) {
		t.Helper()
		if at.AsTime().Before(last) {
			t.Errorf("%s: updated at %v, before %v", what, at.AsTime(), last)
		}
		last = at.AsTime()
	}
	for i := range 5 {
		stream := c.stream()
		notBefore("opened", mustExchange(t, stream, &contentapi.WriteContentRequest{Action: stat, Ref: "r"}).UpdatedAt)
		notBefore("written", mustExchange(t, stream, &contentapi.WriteContentRequest{
			Action: write, Ref: "r", Offset: int64(i), Data: []byte("x"),
		}).UpdatedAt)
		status, err := c.blobs.Status(c.ctx, &contentapi.StatusRequest{Ref: "r"})
		if err != nil {
			t.Fatal(err)
		}
		notBefore("status while written", status.Status.UpdatedAt)
		hangUp(t, stream)
		if status, err = c.blobs.Status(c.ctx, &contentapi.StatusRequest{Ref: "r"}); err != nil {
			t.Fatal(err)
		}
		notBefore("status afterwards", status.Status.UpdatedAt)
	}
}

// TestReservedRoom begins ingests on a small disk: of what is announced, never more than half of what is free is reserved,
// and an ingest that is left gives it back.
func TestReservedRoom(t *testing.T) {
	dir := t.TempDir()
	const disk = 64 << 20
	if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprint("size=", disk)); err != nil {
		t.Skipf("mounting needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	free := func() int64 {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			t.Fatal(err)
		}
		return room(fs.Bavail, fs.Bsize)
	}
	c := openClient(t, dir)
	before := free()
	var streams []contentapi.Content_WriteClient
	for i := range 4 {
		stream := c.stream()
		mustExchange(t, stream, &contentapi.WriteContentRequest{
			Action: write, Ref: fmt.Sprint(i), Total: before / 3, Data: []byte("little comes"),
		})
		streams = append(streams, stream)
	}
	const slack = 1 << 20 // of the ingests' files and the database
	if now := free(); now < before/2-slack || now > before*3/4 {
		t.Errorf("%d of %d bytes are free while four ingests are open", now, before)
	}
	for _, stream := range streams {
		hangUp(t, stream)
	}
	if now := free(); now < before-slack {
		t.Errorf("%d of %d bytes are free after the ingests were left", now, before)
	}
	stream := c.stream()
	_, err := exchange(t, stream, &contentapi.WriteContentRequest{Action: write, Ref: "larger than the disk", Total: 2 * disk})
	wantCode(t, err, codes.ResourceExhausted)
}

func TestWriteAtOffsetZeroBeginsAnew(t *testing.T) {
	c := openClient(t, t.TempDir())
	stream := c.stream()
	mustExchange(t, stream, &contentapi.WriteContentRequest{Action: write, Ref: "r", Data: []byte("a longer wrong beginning")})
	done := mustExchange(t, stream, &contentapi.WriteContentRequest{Action: commit, Data: []byte("right")})
	if got, err := c.get(done.Digest); err != nil || got != "right" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestBadWritesAreRefused(t *testing.T) {
	c := openClient(t, t.TempDir())
	there := c.put("already there", nil)
	tests := map[string]struct {
		request *contentapi.WriteContentRequest
		want    codes.Code
		text    string
	}{
		"no ref":        {&contentapi.WriteContentRequest{Action: write, Data: []byte("x")}, codes.InvalidArgument, "ref"},
		"gap":           {&contentapi.WriteContentRequest{Action: write, Offset: 7, Data: []byte("x")}, codes.OutOfRange, "byte 7"},
		"negative":      {&contentapi.WriteContentRequest{Action: write, Offset: -1, Data: []byte("x")}, codes.OutOfRange, "byte -1"},
		"wrong digest":  {&contentapi.WriteContentRequest{Action: commit, Expected: digest.FromString("y").String(), Data: []byte("x")}, codes.FailedPrecondition, "expected was " + digest.FromString("y").String()},
		"wrong size":    {&contentapi.WriteContentRequest{Action: commit, Total: 2, Data: []byte("x")}, codes.FailedPrecondition, "expected were 2"},
		"too much":      {&contentapi.WriteContentRequest{Action: write, Total: 2, Data: []byte("xyz")}, codes.FailedPrecondition, "2 bytes"},
		"bad digest":    {&contentapi.WriteContentRequest{Action: write, Expected: "sha256:../../etc/passwd"}, codes.InvalidArgument, "etc/passwd"},
		"unknown hash":  {&contentapi.WriteContentRequest{Action: write, Expected: "md5:d41d8cd98f00b204e9800998ecf8427e"}, codes.InvalidArgument, "md5"},
		"already there": {&contentapi.WriteContentRequest{Action: stat, Expected: there}, codes.AlreadyExists, there},
		"large label":   {&contentapi.WriteContentRequest{Action: commit, Data: []byte("x"), Labels: map[string]string{"k": strings.Repeat("v", 4096)}}, codes.InvalidArgument, "4097"},
		"long ref":      {&contentapi.WriteContentRequest{Action: write, Ref: strings.Repeat("r", 10000)}, codes.InvalidArgument, "10000"},
		"huge total":    {&contentapi.WriteContentRequest{Action: write, Total: 1 << 62}, codes.ResourceExhausted, "reserve"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.request.Ref == "" && name != "no ref" {
				test.request.Ref = name
			}
			_, err := c.send(test.request)
			wantCode(t, err, test.want)
			if !strings.Contains(status.Convert(err).Message(), test.text) {
				t.Errorf("message %q does not say %q", err, test.text)
			}
		})
	}
	if c.has(digest.FromString("x").String()) {
		t.Error("a refused blob is visible")
	}
}

func TestWrongDigestCanBeCorrected(t *testing.T) {
	c := openClient(t, t.TempDir())
	want := digest.FromString("right").String()
	_, err := c.send(&contentapi.WriteContentRequest{Action: commit, Ref: "r", Expected: want, Data: []byte("wrong")})
	wantCode(t, err, codes.FailedPrecondition)
	if _, err := c.send(&contentapi.WriteContentRequest{Action: commit, Ref: "r", Expected: want, Data: []byte("right")}); err != nil {
		t.Fatal(err)
	}
}

func TestOtherDigestAlgorithm(t *testing.T) {
	c := openClient(t, t.TempDir())
	want := digest.SHA512.FromString("hello").String()
	stream := c.stream()
	mustExchange(t, stream, &contentapi.WriteContentRequest{Action: write, Ref: "r", Data: []byte("hel")})
	// The algorithm is known only now: what has arrived is hashed again.
	done := mustExchange(t, stream, &contentapi.WriteContentRequest{Action: commit, Offset: 3, Data: []byte("lo"), Expected: want})
	if got, err := c.get(want); err != nil || got != "hello" || done.Digest != want {
		t.Errorf("read %q, %v; committed %s", got, err, done.Digest)
	}
}

func TestRefIsLocked(t *testing.T) {
	c := openClient(t, t.TempDir())
	first := c.stream()
	mustExchange(t, first, &contentapi.WriteContentRequest{Action: write, Ref: "r", Data: []byte("x")})
	_, err := c.send(&contentapi.WriteContentRequest{Action: stat, Ref: "r"})
	wantCode(t, err, codes.Unavailable)
	if _, err := c.in("other").send(&contentapi.WriteContentRequest{Action: stat, Ref: "r"}); err != nil {
		t.Errorf("the same ref in another namespace: %v", err)
	}
	if _, err := exchange(t, first, &contentapi.WriteContentRequest{Action: write, Ref: "r2", Offset: 1}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a second ref on one stream: %v", err)
	}
}

func TestParallelWritersOfOneDigest(t *testing.T) {
	c := openClient(t, t.TempDir())
	content := strings.Repeat("the same content ", 100_000)
	const writers = 8
	results := make([]error, writers)
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			_, results[i] = c.send(&contentapi.WriteContentRequest{Action: commit, Ref: fmt.Sprint(i), Data: []byte(content)})
		})
	}
	group.Wait()
	won := 0
	for _, err := range results {
		if err == nil {
			won++
		} else {
			wantCode(t, err, codes.AlreadyExists)
		}
	}
	if won != 1 {
		t.Errorf("%d writers committed, want 1", won)
	}
	if got, err := c.get(digest.FromString(content).String()); err != nil || got != content {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	statuses, err := c.blobs.ListStatuses(c.ctx, &contentapi.ListStatusesRequest{})
	if err != nil || len(statuses.Statuses) != 0 {
		t.Errorf("ingests left: %v, %v", statuses, err)
	}
}

func TestAbort(t *testing.T) {
	c := openClient(t, t.TempDir())
	stream := c.stream()
	mustExchange(t, stream, &contentapi.WriteContentRequest{Action: write, Ref: "r", Data: []byte("x")})
	if _, err := c.blobs.Abort(c.ctx, &contentapi.AbortRequest{Ref: "r"}); err != nil {
		t.Fatal(err)
	}
	_, err := exchange(t, stream, &contentapi.WriteContentRequest{Action: commit, Offset: 1})
	wantCode(t, err, codes.Aborted)
	_, err = c.blobs.Abort(c.ctx, &contentapi.AbortRequest{Ref: "r"})
	wantCode(t, err, codes.NotFound)
	if entries, err := os.ReadDir(c.store.ingestsDir("test")); err != nil || len(entries) != 0 {
		t.Errorf("left in ingests: %v, %v", entries, err)
	}
}

func TestListStatusesWithFilter(t *testing.T) {
	c := openClient(t, t.TempDir())
	for _, ref := range []string{"layer-1", "layer-2", "config"} {
		if _, err := c.send(&contentapi.WriteContentRequest{Action: write, Ref: ref, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	for filter, want := range map[string]int{`ref~="^layer-"`: 2, "ref==config": 1, "ref!=config": 2, "ref==layer": 0} {
		response, err := c.blobs.ListStatuses(c.ctx, &contentapi.ListStatusesRequest{Filters: []string{filter}})
		if err != nil || len(response.Statuses) != want {
			t.Errorf("%s: %v, %v; want %d", filter, response, err, want)
		}
	}
}
