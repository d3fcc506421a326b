package contentstore

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// list returns the digests that match the filters, sorted.
func (c *client) list(filters ...string) []string {
	c.t.Helper()
	stream, err := c.blobs.List(c.ctx, &contentapi.ListContentRequest{Filters: filters})
	if err != nil {
		c.t.Fatal(err)
	}
	var digests []string
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			slices.Sort(digests)
			return digests
		}
		if err != nil {
			c.t.Fatalf("list %q: %v", filters, err)
		}
		for _, info := range response.Info {
			digests = append(digests, info.Digest)
		}
	}
}

func (c *client) delete(d string) error {
	_, err := c.blobs.Delete(c.ctx, &contentapi.DeleteContentRequest{Digest: d})
	return err
}

func TestReadPartOfABlob(t *testing.T) {
	c := openClient(t, t.TempDir())
	d := c.put("0123456789", nil)
	for _, test := range []struct {
		offset, size int64
		want         string
	}{
		{0, 0, "0123456789"}, {3, 0, "3456789"}, {3, 4, "3456"}, {8, 100, "89"}, {10, 0, ""},
	} {
		stream, err := c.blobs.Read(c.ctx, &contentapi.ReadContentRequest{Digest: d, Offset: test.offset, Size: test.size})
		if err != nil {
			t.Fatal(err)
		}
		response, err := stream.Recv()
		if got := string(response.GetData()); got != test.want || (err != nil && !errors.Is(err, io.EOF)) {
			t.Errorf("from %d, %d bytes: %q, %v; want %q", test.offset, test.size, got, err, test.want)
		}
	}
	stream, err := c.blobs.Read(c.ctx, &contentapi.ReadContentRequest{Digest: d, Offset: 11})
	if err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, err, codes.OutOfRange)
}

func TestLabelsAreUpdated(t *testing.T) {
	c := openClient(t, t.TempDir())
	d := c.put("x", map[string]string{"a": "1", "b": "2"})
	for _, test := range []struct {
		mask   []string
		labels map[string]string
		want   map[string]string
	}{
		{[]string{"labels.a"}, map[string]string{"a": "3", "b": "ignored"}, map[string]string{"a": "3", "b": "2"}},
		{[]string{"labels.a", "labels.with.dots"}, map[string]string{"with.dots": "4"}, map[string]string{"b": "2", "with.dots": "4"}},
		{[]string{"labels"}, map[string]string{"c": "5"}, map[string]string{"c": "5"}},
		{nil, map[string]string{"d": "6"}, map[string]string{"d": "6"}},
		{[]string{"labels", "labels.e"}, nil, map[string]string{}},
	} {
		response, err := c.blobs.Update(c.ctx, &contentapi.UpdateRequest{
			Info: &contentapi.Info{Digest: d, Labels: test.labels}, UpdateMask: &fieldmaskpb.FieldMask{Paths: test.mask},
		})
		if err != nil || !maps.Equal(response.Info.Labels, test.want) {
			t.Errorf("mask %v, labels %v: got %v, %v; want %v", test.mask, test.labels, response, err, test.want)
		}
	}
	_, err := c.blobs.Update(c.ctx, &contentapi.UpdateRequest{
		Info: &contentapi.Info{Digest: d, Size: 7}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"size"}},
	})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.blobs.Update(c.ctx, &contentapi.UpdateRequest{Info: &contentapi.Info{Digest: digest.FromString("nothing").String()}})
	wantCode(t, err, codes.NotFound)
}

func TestListWithFilter(t *testing.T) {
	c := openClient(t, t.TempDir())
	one := c.put("1", map[string]string{"io.x/kind": "layer", "n": "1"})
	two := c.put("22", map[string]string{"io.x/kind": "layer"})
	three := c.put("333", nil)
	for filter, want := range map[string][]string{
		`labels."io.x/kind"==layer`:   {one, two},
		`labels."io.x/kind"==layer,n`: nil,
		"labels.n":                    {one},
		"!labels.n":                   {two, three},
		"size==3":                     {three},
		"digest==" + two:              {two},
		`digest~="^sha512:"`:          nil,
	} {
		slices.Sort(want)
		if got := c.list(filter); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
	if got := c.list("size==1", "size==2"); len(got) != 2 {
		t.Errorf("either of two filters: %v", got)
	}
	stream, err := c.blobs.List(c.ctx, &contentapi.ListContentRequest{Filters: []string{"size=="}})
	if err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, err, codes.InvalidArgument)
}

func TestManyBlobsAreListed(t *testing.T) {
	c := openClient(t, t.TempDir())
	const count = 101
	for i := range count {
		c.put(strings.Repeat("x", i+1), nil)
	}
	if got := c.list(); len(got) != count {
		t.Errorf("listed %d, want %d", len(got), count)
	}
}

// TestLargeLabelsAreListed has blobs that fit into a message one by one only.
func TestLargeLabelsAreListed(t *testing.T) {
	c := openClient(t, t.TempDir())
	labels := map[string]string{}
	for i := range 700 {
		labels[fmt.Sprint("label", i)] = strings.Repeat("v", 4000)
	}
	for _, content := range []string{"a", "b", "c"} {
		c.put(content, labels)
	}
	if got := c.list(); len(got) != 3 {
		t.Errorf("listed %v", got)
	}
}

func TestNamespacesAreSeparate(t *testing.T) {
	c := openClient(t, t.TempDir())
	a, b := c.in("a"), c.in("b")
	a.lease("of-a", nil)
	b.lease("of-b", nil)
	d := a.put("shared", map[string]string{"owner": "a"})
	if b.has(d) || len(b.list()) != 0 {
		t.Error("b sees what a holds")
	}
	if _, err := b.get(d); err == nil {
		t.Error("b can read what a holds")
	}
	b.put("shared", map[string]string{"owner": "b"})
	if err := a.delete(d); err != nil {
		t.Fatal(err)
	}
	if a.has(d) {
		t.Error("a still has what it deleted")
	}
	if got, err := b.get(d); err != nil || got != "shared" {
		t.Errorf("after a's delete b reads %q, %v", got, err)
	}
	if got := b.list("labels.owner==b"); len(got) != 1 {
		t.Errorf("b's label: %v", got)
	}
	_, err := c.in("../escape").blobs.Info(c.in("../escape").ctx, &contentapi.InfoRequest{Digest: d})
	wantCode(t, err, codes.InvalidArgument)
}

// TestNamespaceWithoutLeasesReadsAll does as containerd's metadata store above this one does, before it lets a second
// namespace have a blob without sending it again.
func TestNamespaceWithoutLeasesReadsAll(t *testing.T) {
	c := openClient(t, t.TempDir())
	d := c.in("a").put("shared", nil)
	b := c.in("b")
	if got, err := b.get(d); err != nil || got != "shared" || !b.has(d) {
		t.Errorf("b reads %q, %v", got, err)
	}
	if b.list() != nil {
		t.Error("b lists what a holds")
	}
	if b.delete(d) == nil || !c.in("a").has(d) {
		t.Error("b deleted what a holds")
	}
	if _, err := b.send(&contentapi.WriteContentRequest{Action: commit, Ref: "r", Expected: d, Data: []byte("shared")}); err != nil {
		t.Errorf("a blob of b's own: %v", err)
	}
}

func TestRequestWithoutNamespaceSeesAll(t *testing.T) {
	c := openClient(t, t.TempDir())
	d := c.in("a").put("in a", nil)
	all := c.in("")
	if !all.has(d) || len(all.list()) != 1 {
		t.Error("a blob is not seen without a namespace")
	}
	other := all.put("in default", nil)
	if !c.in("default").has(other) {
		t.Error("what is created without a namespace is not in default")
	}
	if err := all.delete(d); err != nil {
		t.Fatal(err)
	}
	if c.in("a").has(d) {
		t.Error("the blob survived a delete in all namespaces")
	}
}

func TestDeletedBlobIsGone(t *testing.T) {
	c := openClient(t, t.TempDir())
	d := c.put("x", nil)
	if err := c.delete(d); err != nil {
		t.Fatal(err)
	}
	wantCode(t, c.delete(d), codes.NotFound)
	if c.has(d) {
		t.Error("the blob is still there")
	}
	if files, err := c.store.blobFiles(); err != nil || len(files) != 0 {
		t.Errorf("files left: %v, %v", files, err)
	}
	if d != c.put("x", nil) || !c.has(d) {
		t.Error("a deleted blob can not be written again")
	}
}
