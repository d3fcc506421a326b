package contentstore

import (
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
)

func (c *client) lease(id string, labels map[string]string) *leasesapi.Lease {
	c.t.Helper()
	response, err := c.leases.Create(c.ctx, &leasesapi.CreateRequest{ID: id, Labels: labels})
	if err != nil {
		c.t.Fatal(err)
	}
	return response.Lease
}

// collect collects garbage in the client's namespace, by deleting a lease made for that.
func (c *client) collect() {
	c.t.Helper()
	lease := c.lease("", nil)
	if _, err := c.leases.Delete(c.ctx, &leasesapi.DeleteRequest{ID: lease.ID, Sync: true}); err != nil {
		c.t.Fatal(err)
	}
}

func TestCollectKeepsWhatIsReferred(t *testing.T) {
	c := openClient(t, t.TempDir())
	layer := c.put("layer", nil)
	config := c.put("config", nil)
	manifest := c.put("manifest", map[string]string{
		"containerd.io/gc.ref.content.config": config, "containerd.io/gc.ref.content.l.0": layer,
	})
	index := c.put("index", map[string]string{"containerd.io/gc.root": "now", "containerd.io/gc.ref.content.m.0": manifest})
	stray := c.put("stray", map[string]string{"containerd.io/gc.ref.content": layer})
	c.collect()
	for name, d := range map[string]string{"layer": layer, "config": config, "manifest": manifest, "index": index} {
		if !c.has(d) {
			t.Errorf("the %s was collected", name)
		}
	}
	if c.has(stray) {
		t.Error("what nothing refers to was kept")
	}
	if err := c.delete(index); err != nil {
		t.Fatal(err)
	}
	c.collect()
	if left := c.list(); len(left) != 0 {
		t.Errorf("left without a root: %v", left)
	}
}

func TestCollectLeavesOtherNamespaces(t *testing.T) {
	c := openClient(t, t.TempDir())
	d := c.in("a").put("x", nil)
	c.in("b").put("x", nil)
	c.in("b").collect()
	if c.in("b").has(d) {
		t.Error("b's garbage was kept")
	}
	if got, err := c.in("a").get(d); err != nil || got != "x" {
		t.Errorf("a reads %q, %v", got, err)
	}
}

func TestLeaseKeepsWhatIsCommittedUnderIt(t *testing.T) {
	c := openClient(t, t.TempDir())
	c.lease("pull", nil)
	child := c.put("child", nil)
	held := c.under("pull").put("held", map[string]string{"containerd.io/gc.ref.content": child})
	c.collect()
	if !c.has(held) || !c.has(child) {
		t.Error("what a lease holds was collected")
	}
	response, err := c.leases.ListResources(c.ctx, &leasesapi.ListResourcesRequest{ID: "pull"})
	if err != nil || len(response.Resources) != 1 || response.Resources[0].ID != held || response.Resources[0].Type != "content" {
		t.Errorf("resources %v, %v", response, err)
	}
	if _, err := c.leases.Delete(c.ctx, &leasesapi.DeleteRequest{ID: "pull", Sync: true}); err != nil {
		t.Fatal(err)
	}
	if c.has(held) || c.has(child) {
		t.Error("what an ended lease held is still there")
	}
}

func TestLeaseKeepsABlobThatWasThereAlready(t *testing.T) {
	c := openClient(t, t.TempDir())
	c.lease("pull", nil)
	d := c.put("x", nil)
	_, err := c.under("pull").send(&contentapi.WriteContentRequest{Action: stat, Ref: "r", Expected: d})
	wantCode(t, err, codes.AlreadyExists)
	c.collect()
	if !c.has(d) {
		t.Error("a blob was collected that a pull was told to be there")
	}
}

func TestFlatLeaseKeepsNoReferences(t *testing.T) {
	c := openClient(t, t.TempDir())
	child := c.put("child", nil)
	held := c.put("held", map[string]string{"containerd.io/gc.ref.content": child})
	c.lease("flat", map[string]string{labelFlat: "yes"})
	_, err := c.leases.AddResource(c.ctx, &leasesapi.AddResourceRequest{ID: "flat", Resource: &leasesapi.Resource{ID: held, Type: "content"}})
	if err != nil {
		t.Fatal(err)
	}
	c.collect()
	if !c.has(held) || c.has(child) {
		t.Errorf("held: %v, child: %v; want only held", c.has(held), c.has(child))
	}
}

func TestExpiredLeaseEnds(t *testing.T) {
	c := openClient(t, t.TempDir())
	at := func(d time.Duration) map[string]string {
		return map[string]string{labelExpire: time.Now().Add(d).Format(time.RFC3339)}
	}
	c.lease("past", at(-time.Minute))
	c.lease("future", at(time.Hour))
	c.lease("unreadable", map[string]string{labelExpire: "tomorrow"})
	gone := c.under("past").put("gone", nil)
	kept := c.under("future").put("kept", nil)
	doubtful := c.under("unreadable").put("doubtful", nil)
	c.collect()
	if c.has(gone) || !c.has(kept) || !c.has(doubtful) {
		t.Errorf("gone: %v, kept: %v, doubtful: %v", c.has(gone), c.has(kept), c.has(doubtful))
	}
	response, err := c.leases.List(c.ctx, &leasesapi.ListRequest{})
	if err != nil || len(response.Leases) != 2 {
		t.Errorf("leases %v, %v; want future and unreadable", response, err)
	}
}

func TestCollectForgetsOldIngests(t *testing.T) {
	c := openClient(t, t.TempDir())
	want := digest.FromString("expected")
	c.lease("pull", nil)
	for _, ref := range []string{"idle", "leased", "open"} {
		if _, err := c.send(&contentapi.WriteContentRequest{Action: write, Ref: ref, Data: []byte(ref)}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.leases.AddResource(c.ctx, &leasesapi.AddResourceRequest{ID: "pull", Resource: &leasesapi.Resource{ID: "leased", Type: "ingests"}})
	if err != nil {
		t.Fatal(err)
	}
	stream := c.stream()
	mustExchange(t, stream, &contentapi.WriteContentRequest{Action: stat, Ref: "open", Expected: want.String()})

	count, err := c.store.collect("test", time.Now().Add(ingestAge/2))
	if err != nil || count.ingests != 0 {
		t.Errorf("young ingests: collected %+v, %v", count, err)
	}
	count, err = c.store.collect("test", time.Now().Add(2*ingestAge))
	if err != nil || count.ingests != 1 {
		t.Errorf("old ingests: collected %+v, %v; want 1", count, err)
	}
	_, err = c.blobs.Status(c.ctx, &contentapi.StatusRequest{Ref: "idle"})
	wantCode(t, err, codes.NotFound)
}

func TestBadLeasesAreRefused(t *testing.T) {
	c := openClient(t, t.TempDir())
	c.lease("there", nil)
	_, err := c.leases.Create(c.ctx, &leasesapi.CreateRequest{ID: "there"})
	wantCode(t, err, codes.AlreadyExists)
	_, err = c.leases.Create(c.ctx, &leasesapi.CreateRequest{ID: "a/b"})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.leases.Delete(c.ctx, &leasesapi.DeleteRequest{ID: "missing"})
	wantCode(t, err, codes.NotFound)
	_, err = c.leases.ListResources(c.ctx, &leasesapi.ListResourcesRequest{ID: "missing"})
	wantCode(t, err, codes.NotFound)
	_, err = c.under("missing").send(&contentapi.WriteContentRequest{Action: commit, Ref: "r", Data: []byte("x")})
	wantCode(t, err, codes.NotFound)
	for kind, want := range map[string]codes.Code{"content": codes.InvalidArgument, "images": codes.Unimplemented, "": codes.Unimplemented} {
		_, err = c.leases.AddResource(c.ctx, &leasesapi.AddResourceRequest{ID: "there", Resource: &leasesapi.Resource{ID: "x", Type: kind}})
		wantCode(t, err, want)
	}
}
