package stores_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/opencontainers/go-digest"
)

const (
	crashRounds = 12
	// crashWindow is how long a service works at most before it is killed.
	crashWindow = 120 * time.Millisecond
)

// killSometime kills the service at a random instant from now on.
func (s *service) killSometime() {
	time.Sleep(rand.N(crashWindow)) // not a wait for anything: the instant is to be random
	s.kill()
}

// random returns content that nobody has written before, of up to limit bytes.
func random(limit int) []byte {
	content := make([]byte, 16+rand.IntN(limit))
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	return content
}

// acknowledged remembers the blobs whose commit was answered.
type acknowledged struct {
	mu    sync.Mutex
	blobs map[string]bool
}

// commitUntilItFails commits blobs in chunks until the service is gone.
func (a *acknowledged) commitUntilItFails(ctx context.Context, client contentapi.ContentClient, ref string) {
	for i := 0; ; i++ {
		content := random(1 << 20)
		stream, err := client.Write(ctx)
		if err != nil {
			return
		}
		c := conversation{stream: stream}
		half := len(content) / 2
		_, err = c.ask(&contentapi.WriteContentRequest{
			Action: contentapi.WriteAction_WRITE, Ref: fmt.Sprintf("%s-%d", ref, i), Data: content[:half],
		})
		if err != nil {
			return
		}
		done, err := c.ask(&contentapi.WriteContentRequest{
			Action: contentapi.WriteAction_COMMIT, Offset: int64(half), Data: content[half:],
			Expected: digest.FromBytes(content).String(),
		})
		if err != nil {
			return
		}
		a.mu.Lock()
		a.blobs[done.Digest] = true
		a.mu.Unlock()
	}
}

func TestKilledStoreLosesNoCommittedBlob(t *testing.T) {
	s, ctx := startContent(t), namespace(t, "test")
	known := acknowledged{blobs: map[string]bool{}}
	for round := range crashRounds {
		var writers sync.WaitGroup
		for i := range 3 {
			client := s.content()
			writers.Go(func() { known.commitUntilItFails(ctx, client, fmt.Sprintf("%d-%d", round, i)) })
		}
		s.killSometime()
		writers.Wait()
		s.start()
		checkBlobs(t, s, ctx, known.blobs)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	if len(known.blobs) == 0 {
		t.Fatal("nothing was committed: the test shows nothing")
	}
	statuses, err := s.content().ListStatuses(ctx, &contentapi.ListStatusesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d blobs committed, %d ingests interrupted in %d rounds", len(known.blobs), len(statuses.Statuses), crashRounds)
	for _, status := range statuses.Statuses {
		resume(t, s, ctx, status)
	}
	checkBlobs(t, s, ctx, known.blobs)
}

// checkBlobs checks that every acknowledged blob is there, and that whatever is there is whole.
func checkBlobs(t *testing.T, s *service, ctx context.Context, want map[string]bool) {
	t.Helper()
	visible := map[string]bool{}
	for _, d := range s.blobs(ctx) {
		visible[d] = true
		content, err := s.read(ctx, d)
		if err != nil || digest.FromBytes(content).String() != d {
			t.Errorf("blob %s has %d bytes of digest %s, %v", d, len(content), digest.FromBytes(content), err)
		}
	}
	for d := range want {
		if !visible[d] {
			t.Errorf("the committed blob %s is lost", d)
		}
	}
	dir := filepath.Join(s.Root, "blobs", "sha256")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return // it was killed before the first commit
	}
	for _, name := range files(t, dir) {
		if !visible["sha256:"+name] {
			t.Errorf("file %s belongs to no blob", name)
		}
	}
}

// resume continues an interrupted ingest where it stands.
func resume(t *testing.T, s *service, ctx context.Context, status *contentapi.Status) {
	t.Helper()
	c := s.converse(ctx)
	stood := c.mustAsk(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_STAT, Ref: status.Ref})
	if stood.Offset != status.Offset {
		t.Errorf("ingest %q has status %d and stands at %d", status.Ref, status.Offset, stood.Offset)
	}
	more := c.mustAsk(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Offset: stood.Offset, Data: []byte("more")})
	c.hangUp()
	if _, err := s.content().Abort(ctx, &contentapi.AbortRequest{Ref: status.Ref}); err != nil || more.Offset != stood.Offset+4 {
		t.Errorf("ingest %q: went on to %d from %d, abort: %v", status.Ref, more.Offset, stood.Offset, err)
	}
}

// Of two processes on one directory the second has to give up: it would lose what the first commits.
func TestSecondProcessOnADirectoryGivesUp(t *testing.T) {
	s := startContent(t)
	output, err := s.command("--address", s.Address+"2").CombinedOutput()
	if err == nil || !containsAll(string(output), s.Root, "another process") {
		t.Errorf("a second process said %q, %v", output, err)
	}
	output, err = s.command("--root", s.Root+"2").CombinedOutput()
	if err == nil || !containsAll(string(output), s.Address, "another process") {
		t.Errorf("a second process on the socket said %q, %v", output, err)
	}
	if _, err := os.Stat(s.Address); err != nil {
		t.Errorf("the first one's socket: %v", err)
	}
}
