package contentstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/opencontainers/go-digest"

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
