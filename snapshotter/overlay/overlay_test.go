package overlay

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"

	"github.com/berthd/berth/snapshotter/graph"
)

func TestMounts(t *testing.T) {
	l := New("/s")
	l.options = []string{"index=off"}
	active, view := snapshotsapi.Kind_ACTIVE, snapshotsapi.Kind_VIEW
	for name, test := range map[string]struct {
		kind    snapshotsapi.Kind
		parents []uint64
		want    []string // type, source, options
	}{
		"bottom":           {active, nil, []string{"bind", "/s/9/fs", "rw", "rbind"}},
		"view of nothing":  {view, nil, []string{"bind", "/s/9/fs", "ro", "rbind"}},
		"view of one":      {view, []uint64{1}, []string{"bind", "/s/1/fs", "ro", "rbind"}},
		"view of two":      {view, []uint64{2, 1}, []string{"overlay", "overlay", "index=off", "lowerdir=/s/2/fs:/s/1/fs"}},
		"active on one":    {active, []uint64{1}, []string{"overlay", "overlay", "index=off", "workdir=/s/9/work", "upperdir=/s/9/fs", "lowerdir=/s/1/fs"}},
		"nearest is first": {active, []uint64{3, 2, 1}, []string{"overlay", "overlay", "index=off", "workdir=/s/9/work", "upperdir=/s/9/fs", "lowerdir=/s/3/fs:/s/2/fs:/s/1/fs"}},
	} {
		mounts := l.Mounts(graph.Snapshot{ID: 9, Parents: test.parents, Info: &snapshotsapi.Info{Kind: test.kind}})
		if len(mounts) != 1 {
			t.Fatalf("%s: %v", name, mounts)
		}
		if got := append([]string{mounts[0].Type, mounts[0].Source}, mounts[0].Options...); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestMakeTakesModeOfTheParent(t *testing.T) {
	dir := t.TempDir()
	l := New(dir)
	make := func(id uint64, parents ...uint64) string {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, string('0'+rune(id))), 0o711); err != nil {
			t.Fatal(err)
		}
		if err := l.Make(graph.Snapshot{ID: id, Parents: parents, Info: &snapshotsapi.Info{Kind: snapshotsapi.Kind_ACTIVE}}); err != nil {
			t.Fatal(err)
		}
		return l.path(id, "fs")
	}
	if err := os.Chmod(make(1), 0o750|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(make(2, 1))
	if err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o750 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(l.path(2, "work")); err != nil {
		t.Error(err)
	}
}

func TestProbeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := Probe(dir); err != nil {
		t.Logf("no overlayfs here: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("a mount is left, or %v", err)
	}
}
