package stores_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/test/testenv"
)

// history is what a store was asked for, step by step, and when it had answered.
type history struct {
	steps []step
}

type step struct {
	answered time.Time
	// sync says that a client has synced the whole file system, as berthd does before it commits a layer.
	sync bool
	want map[string]bool // what is there by now, and what is not
}

// answered notes the end of a step and what has changed with it.
func (h *history) answered(name string, there bool) {
	want := map[string]bool{}
	if len(h.steps) > 0 {
		want = maps.Clone(h.steps[len(h.steps)-1].want)
	}
	want[name] = there
	h.steps = append(h.steps, step{answered: time.Now(), want: want})
}

func (h *history) synced() {
	h.answered("", false)
	h.steps[len(h.steps)-1].sync = true
}

// eachPowerFailure cuts the power after each system call of a trace and calls check with the store's directory as each
// possible state of the disk has it, and with what must be there and not be there. What was only being changed is in neither.
func eachPowerFailure(t *testing.T, root, log string, h *history, check func(root string, want map[string]bool)) {
	t.Helper()
	r := replay{disk: newDisk(), root: root, ends: map[string]int{}}
	r.disk.seen[""], r.disk.durable[""] = 0, 0
	dir := filepath.Join(testenv.ShortDir(t), "store")
	var last [3]state
	next, tried := 0, 0
	var want, changing map[string]bool
	for i, c := range readTrace(t, log) {
		for next < len(h.steps) && h.steps[next].answered.Before(c.at) {
			if h.steps[next].sync {
				r.disk.syncAll()
			}
			want = h.steps[next].want
			next++
			last = [3]state{} // the same state must do for what has been answered now
		}
		changing = nil
		if next < len(h.steps) {
			changing = h.steps[next].want
		}
		r.apply(c)
		states := r.disk.states()
		for kind, s := range states {
			if last[kind] != nil && last[kind].equal(s) || kind > 0 && s.equal(states[kind-1]) {
				continue
			}
			last[kind] = s
			s.restore(t, dir)
			sure := maps.Clone(want)
			maps.DeleteFunc(sure, func(name string, there bool) bool { now, known := changing[name]; return known && now != there })
			check(dir, sure)
			tried++
			if t.Failed() {
				t.Fatalf("after call %d, %s, in state %d with %v", i, c.name, kind, slices.Sorted(maps.Keys(s)))
			}
		}
	}
	if next < len(h.steps)-1 || tried < 2*len(h.steps) {
		t.Errorf("only %d of %d steps and %d states were tried", next, len(h.steps), tried)
	}
	t.Logf("%d states", tried)
}

func TestPowerFailureOfTheContentStore(t *testing.T) {
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	s, log := startTraced(t, "berth-contentstore", dir)
	ctx, other := namespace(t, "test"), namespace(t, "other")
	h := &history{}
	put := func(ctx context.Context, content []byte) string {
		t.Helper()
		c := s.converse(ctx)
		half := len(content) / 2
		c.mustAsk(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Ref: "r", Total: int64(len(content)), Data: content[:half]})
		done := c.mustAsk(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_COMMIT, Offset: int64(half), Data: content[half:]})
		c.hangUp()
		return done.Digest
	}
	first, second := random(50_000), random(9_000)
	h.answered(put(ctx, first), true)
	put(other, first)
	h.answered(put(ctx, second), true)
	c := s.converse(ctx)
	c.mustAsk(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Ref: "left", Total: 100, Data: []byte("half")})
	c.hangUp()
	d := digest.FromBytes(second).String()
	if _, err := s.content().Delete(ctx, &contentapi.DeleteContentRequest{Digest: d}); err != nil {
		t.Fatal(err)
	}
	h.answered(d, false)
	h.answered(put(ctx, []byte("third")), true)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	eachPowerFailure(t, s.Root, log, h, func(root string, want map[string]bool) {
		after := startOn(t, "berth-contentstore", root)
		defer after.kill()
		there := map[string]bool{}
		for _, d := range after.blobs(ctx) {
			there[d] = true
			if content, err := after.read(ctx, d); err != nil || digest.FromBytes(content).String() != d {
				t.Errorf("blob %s has %d bytes, %v", d, len(content), err)
			}
		}
		checkThere(t, want, there)
	})
}

func TestPowerFailureOfTheSnapshotter(t *testing.T) {
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	s, log := startTraced(t, "berth-snapshotter", dir)
	h := &history{}
	for _, name := range []string{"bottom", "top"} {
		s.prepare("extract", map[string]string{"top": "bottom"}[name])
		h.answered("extract", true)
		h.synced()
		s.commit("extract", name)
		h.answered(name, true)
		h.steps[len(h.steps)-1].want["extract"] = false
	}
	s.prepare("container", "top")
	h.answered("container", true)
	if err := s.remove("container"); err != nil {
		t.Fatal(err)
	}
	h.answered("container", false)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	eachPowerFailure(t, s.Root, log, h, func(root string, want map[string]bool) {
		after := startOn(t, "berth-snapshotter", root)
		defer after.kill()
		there := map[string]bool{}
		for _, name := range after.names(t.Context()) {
			there[name] = true
			mounts, err := after.snapshots().Mounts(t.Context(), &snapshotsapi.MountsRequest{Key: name})
			if err != nil {
				continue // a committed one is not mounted
			}
			for _, directory := range mountDirectories(mounts.Mounts) {
				if _, err := os.Stat(directory); err != nil {
					t.Errorf("snapshot %q can't be mounted: %v", name, err)
				}
			}
		}
		checkThere(t, want, there)
	})
}

// mountDirectories returns the directories that mounts need.
func mountDirectories(mounts []*types.Mount) (dirs []string) {
	for _, m := range mounts {
		if m.Type == "bind" {
			dirs = append(dirs, m.Source)
		}
		for _, option := range m.Options {
			for _, key := range []string{"upperdir=", "workdir=", "lowerdir="} {
				if value, found := strings.CutPrefix(option, key); found {
					dirs = append(dirs, strings.Split(value, ":")...)
				}
			}
		}
	}
	return dirs
}

func checkThere(t *testing.T, want, there map[string]bool) {
	t.Helper()
	for name, wanted := range want {
		if name != "" && there[name] != wanted {
			t.Errorf("%s is there: %v, was answered: %v", name, there[name], wanted)
		}
	}
}
