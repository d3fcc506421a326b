package plugin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// A plugin that hangs is killed with what it has started, also if that keeps its output open.
func TestHungPluginIsKilled(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	path := script(t, "sleep 1000 & echo $! >"+pidFile+"; wait")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error)
	go func() {
		_, err := (&Executor{}).ExecPlugin(ctx, path, nil, os.Environ())
		ended <- err
	}()
	child := 0
	for deadline := time.Now().Add(10 * time.Second); child == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		content, _ := os.ReadFile(pidFile)
		child, _ = strconv.Atoi(strings.TrimSpace(string(content)))
	}
	if child == 0 {
		t.Fatal("the plugin was not executed")
	}
	cancel()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("a plugin that was killed: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the call waits for the plugin")
	}
	for deadline := time.Now().Add(10 * time.Second); unix.Kill(child, 0) == nil; time.Sleep(time.Millisecond) {
		if stat, err := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat"); err == nil && strings.Contains(string(stat), ") Z ") {
			break // nobody reaps it
		}
		if time.Now().After(deadline) {
			t.Fatal("what the plugin has started is still there")
		}
	}
}

func TestErrorsOfExecutedPlugins(t *testing.T) {
	for text, want := range map[string]string{
		`echo '{"code": 11, "msg": "later"}'; exit 1`: "later",
		`echo broken >&2; exit 3`:                     "broken",
		`echo half; exit 3`:                           "half",
	} {
		_, err := (&Executor{}).ExecPlugin(t.Context(), script(t, text), nil, os.Environ())
		var failure *types.Error
		if !errors.As(err, &failure) || !strings.Contains(failure.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	output, err := (&Executor{}).ExecPlugin(t.Context(), script(t, "cat"), []byte("in"), os.Environ())
	if err != nil || string(output) != "in" {
		t.Errorf("got %q, %v", output, err)
	}
}
