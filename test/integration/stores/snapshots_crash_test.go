package stores_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
)

// expectation is what one user of a killed snapshotter knows about its snapshots.
type expectation struct {
	known  map[string]bool // name -> whether it exists
	unsure map[string]bool // the call that would have decided was not answered
}

// liveUntilItFails makes layers and containers on them, and removes them again, until the service is gone.
func (e *expectation) liveUntilItFails(t *testing.T, client snapshotsapi.SnapshotsClient, prefix string) {
	call := func(do func() error, appears, disappears string) bool {
		changed := map[string]bool{appears: true, disappears: false}
		delete(changed, "")
		err := do()
		for name, exists := range changed {
			if err != nil {
				e.unsure[name] = true
			} else {
				e.known[name] = exists
			}
		}
		return err == nil
	}
	parent := ""
	for i := 0; ; i++ {
		key, name, container := fmt.Sprintf("%s-key-%d", prefix, i), fmt.Sprintf("%s-layer-%d", prefix, i), fmt.Sprintf("%s-run-%d", prefix, i)
		prepare := func(key, parent string) func() error {
			return func() error {
				_, err := client.Prepare(t.Context(), &snapshotsapi.PrepareSnapshotRequest{Key: key, Parent: parent})
				return err
			}
		}
		commit := func() error {
			_, err := client.Commit(t.Context(), &snapshotsapi.CommitSnapshotRequest{Key: key, Name: name})
			return err
		}
		remove := func() error {
			_, err := client.Remove(t.Context(), &snapshotsapi.RemoveSnapshotRequest{Key: container})
			return err
		}
		if !call(prepare(key, parent), key, "") || !call(commit, name, key) ||
			!call(prepare(container, name), container, "") || !call(remove, "", container) {
			return
		}
		if parent = name; i%5 == 4 {
			parent = ""
		}
	}
}

func TestKilledSnapshotterDoesAllOrNothing(t *testing.T) {
	onEachLayout(t, func(t *testing.T, s *service) {
		var all []*expectation
		for round := range crashRounds {
			var users sync.WaitGroup
			for i := range 3 {
				client, e := s.snapshots(), &expectation{known: map[string]bool{}, unsure: map[string]bool{}}
				all = append(all, e)
				users.Go(func() { e.liveUntilItFails(t, client, fmt.Sprintf("%d-%d", round, i)) })
			}
			s.killSometime()
			users.Wait()
			s.start()
			checkSnapshots(t, s, all)
			if t.Failed() {
				t.Fatalf("in round %d", round)
			}
		}
	})
}

// checkSnapshots checks that what was answered has happened, and that directories and snapshots are the same.
func checkSnapshots(t *testing.T, s *service, all []*expectation) {
	t.Helper()
	if _, err := s.snapshots().Cleanup(t.Context(), &snapshotsapi.CleanupRequest{}); err != nil { // waits for what Open has begun
		t.Error(err)
	}
	there := map[string]bool{}
	for _, name := range s.names(t.Context()) {
		there[name] = true
	}
	if directories := files(t, filepath.Join(s.Root, "snapshots")); len(directories) != len(there) {
		t.Errorf("%d snapshots have %d directories", len(there), len(directories))
	}
	for _, e := range all {
		for name, exists := range e.known {
			if !e.unsure[name] && there[name] != exists {
				t.Errorf("%s exists: %v, was answered: %v", name, there[name], exists)
			}
		}
	}
	for name := range there {
		view, err := s.snapshots().Mounts(t.Context(), &snapshotsapi.MountsRequest{Key: name})
		if err != nil {
			continue // a committed one is not mounted
		}
		for _, m := range view.Mounts {
			if m.Type != "bind" {
				continue
			}
			if _, err := os.Stat(m.Source); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
