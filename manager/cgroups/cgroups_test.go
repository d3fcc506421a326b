package cgroups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// group makes a cgroup with a child in each hierarchy that has a freezer, and a process in the child.
func group(t *testing.T) (Group, *exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes cgroups")
	}
	name := fmt.Sprintf("/berth-test-cgroups-%d-%d", os.Getpid(), time.Now().UnixNano())
	g := At(name)
	made := 0
	for _, mount := range mounts() {
		_, v1 := os.Stat(filepath.Join(mount, "freezer.state"))
		if base := filepath.Base(mount); base != "freezer" && base != "unified" && base != "cgroup" && v1 != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Join(mount, name, "below"), 0o755); err != nil {
			t.Skipf("cannot make cgroups here: %v", err)
		}
		made++
	}
	if made == 0 {
		t.Skip("no hierarchy of this host has a freezer")
	}
	process := exec.Command("sleep", "1000")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.Thaw()
		_ = process.Process.Kill()
		_ = process.Wait()
		g.Remove()
		if left := g.dirs(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
	for _, dir := range g.dirs() {
		if filepath.Base(dir) != "below" {
			continue
		}
		if err := write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(process.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	return g, process
}

func TestKillEndsAFrozenProcessOfAGroupBelow(t *testing.T) {
	g, process := group(t)
	if pids := g.Pids(); len(pids) != 1 || pids[0] != process.Process.Pid {
		t.Fatalf("the group has %v, want %d", pids, process.Process.Pid)
	}
	for _, dir := range g.dirs() {
		for name, frozen := range map[string]string{"freezer.state": "FROZEN", "cgroup.freeze": "1"} {
			if err := write(filepath.Join(dir, name), frozen); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	if !g.Frozen() {
		t.Error("it does not count as frozen")
	}
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the killed process ended well")
	}
	if g.Frozen() {
		t.Error("it is still frozen")
	}
}

func TestNoGroup(t *testing.T) {
	for _, g := range []Group{At("/"), At(""), At("../.."), At("/berth-test-no-such-group")} {
		if pids := g.Pids(); len(pids) > 0 {
			t.Errorf("%v has processes: %v", g, pids)
		}
		if err := errors.Join(g.Thaw(), g.Kill(t.Context())); err != nil || g.Frozen() {
			t.Errorf("%v: %v", g, err)
		}
	}
}
