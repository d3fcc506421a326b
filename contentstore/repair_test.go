package contentstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/berthd/berth/internal/errdefs"
)

// reopen opens a store on a directory that a closed one has left, after the crash that damage stands for.
func reopen(t *testing.T, dir string, damage func(*client)) *client {
	t.Helper()
	t.Run("before", func(t *testing.T) { damage(openClient(t, dir)) })
	return openClient(t, dir)
}

func TestRepairRemovesFilesThatNoBlobHas(t *testing.T) {
	var kept string
	orphan := digest.FromString("committed but not recorded")
	c := reopen(t, t.TempDir(), func(c *client) {
		kept = c.put("kept", nil)
		if err := os.WriteFile(c.store.blobPath(orphan), []byte("committed but not recorded"), 0o444); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat(c.store.blobPath(orphan)); !missing(err) {
		t.Errorf("the orphan: %v", err)
	}
	if got, err := c.get(kept); err != nil || got != "kept" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestRepairForgetsBlobsWithoutAFile(t *testing.T) {
	var lost string
	c := reopen(t, t.TempDir(), func(c *client) {
		lost = c.put("lost", nil)
		if err := os.Remove(c.store.blobPath(digest.Digest(lost))); err != nil {
			t.Fatal(err)
		}
	})
	if c.has(lost) {
		t.Error("a blob without a file is claimed to be there")
	}
	if c.put("lost", nil) != lost || !c.has(lost) {
		t.Error("it can't be fetched again")
	}
}

func TestRepairRemovesWhatIsNoIngest(t *testing.T) {
	c := reopen(t, t.TempDir(), func(c *client) {
		for ref, missing := range map[string]string{"whole": "", "half made": "state", "committed": "data"} {
			if _, err := c.send(&contentapi.WriteContentRequest{Action: write, Ref: ref, Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			if missing != "" {
				if err := os.Remove(filepath.Join(c.store.ingestDir(ingestKey{"test", ref}), missing)); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	response, err := c.blobs.ListStatuses(c.ctx, &contentapi.ListStatusesRequest{})
	if err != nil || len(response.Statuses) != 1 || response.Statuses[0].Ref != "whole" || response.Statuses[0].Offset != 1 {
		t.Errorf("ingests %v, %v; want whole", response, err)
	}
	if entries, err := os.ReadDir(c.store.ingestsDir("test")); err != nil || len(entries) != 1 {
		t.Errorf("directories %v, %v", entries, err)
	}
}

// TestDamagedIngestBeginsAnew has ingests as power failures leave them: with an empty state, and with one that does not
// decode. Neither keeps others from being listed and collected, nor its own blob from being written.
func TestDamagedIngestBeginsAnew(t *testing.T) {
	expected, err := proto.Marshal(&contentapi.Status{Ref: "bad digest", Expected: "sha256:damaged"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := reopen(t, dir, func(c *client) {
		for ref, state := range map[string]string{"whole": "", "empty": "", "undecodable": "\xff\xff", "bad digest": string(expected)} {
			if _, err := c.send(&contentapi.WriteContentRequest{Action: write, Ref: ref, Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(c.store.ingestDir(ingestKey{"test", ref}), "state"), []byte(state), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.send(&contentapi.WriteContentRequest{Action: commit, Ref: "whole", Data: []byte("whole")}); err != nil {
			t.Errorf("a damaged ingest is not begun anew: %v", err)
		}
		if response, err := c.blobs.ListStatuses(c.ctx, &contentapi.ListStatusesRequest{}); err != nil || len(response.Statuses) != 0 {
			t.Errorf("statuses %v, %v", response, err)
		}
		c.collect()
		if err := os.WriteFile(filepath.Join(dir, "ingests", "odd file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if entries, err := os.ReadDir(c.store.ingestsDir("test")); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if response, err := c.blobs.ListStatuses(c.ctx, &contentapi.ListStatusesRequest{}); err != nil || len(response.Statuses) != 0 {
		t.Errorf("statuses %v, %v", response, err)
	}
}

// TestOpenWithOddFiles opens a store with files that are no blobs, a directory in a blob's place, an orphan that can't be
// removed, and records that can't be read.
func TestOpenWithOddFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "odd [root")
	var kept, damaged, replaced string
	c := reopen(t, dir, func(c *client) {
		c.lease("held", nil)
		kept, damaged, replaced = c.put("kept", nil), c.put("damaged", nil), c.put("replaced", nil)
		c.lease("damaged", nil)
		err := c.store.db.Update(func(tx *bbolt.Tx) error {
			return errors.Join(lookup(tx, []byte("test"), bucketBlobs).Put([]byte(damaged), []byte{0xff}),
				lookup(tx, []byte("test"), bucketLeases).Put([]byte("damaged"), []byte{0xff}))
		})
		path := c.store.blobPath(digest.Digest(replaced))
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "blobs", "README"), nil, 0o600),
			os.WriteFile(filepath.Join(dir, "blobs", "sha256", ".swp"), nil, 0o600),
			os.Remove(path), os.MkdirAll(filepath.Join(path, "sub"), 0o700))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.list(); len(got) != 2 {
			t.Errorf("a record that can't be read: listed are %v", got)
		}
	})
	if got := c.list(); len(got) != 1 || got[0] != kept {
		t.Errorf("blobs %v, want %s", got, kept)
	}
	for _, content := range []string{"damaged", "replaced"} {
		if d := c.put(content, nil); d != damaged && d != replaced {
			t.Errorf("%s again: %s", content, d)
		}
	}
	if leases, err := c.leases.List(c.ctx, &leasesapi.ListRequest{}); err != nil || len(leases.Leases) != 2 {
		t.Errorf("leases %v, %v", leases, err)
	}
	for _, id := range []string{"damaged", "held"} {
		if _, err := c.leases.Delete(c.ctx, &leasesapi.DeleteRequest{ID: id, Sync: true}); err != nil {
			t.Error(err)
		}
	}
}

// An ingest that a crash has left behind its commit must not lead to the blob: writing to it would change what others
// have read.
func TestCommittedFileBelongsToNoIngest(t *testing.T) {
	c := openClient(t, t.TempDir())
	stream := c.stream()
	mustExchange(t, stream, &contentapi.WriteContentRequest{Action: write, Ref: "r", Data: []byte("x")})
	data := filepath.Join(c.store.ingestDir(ingestKey{"test", "r"}), "data")
	before, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	w := c.store.writers[ingestKey{"test", "r"}]
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	if err := w.publish(digest.FromString("x"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(data); !missing(err) {
		t.Errorf("the ingest still has its data: %v", err)
	}
	after, err := os.Stat(c.store.blobPath(digest.FromString("x")))
	if err != nil || !os.SameFile(before, after) || after.Mode().Perm() != 0o444 {
		t.Errorf("the blob's file: %v, %v", after, err)
	}
}

func TestDirectoryIsOpenOnce(t *testing.T) {
	dir := t.TempDir()
	openClient(t, dir)
	if store, err := Open(dir, Options{}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("a second open: %v, %v", store, err)
	}
}
