package server

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A runtime that hangs keeps nobody from the version of everything else.
func TestVersionOfAProgramThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	got := component(t.Context(), path)
	if took := time.Since(begun); took > 6*versionLimit || got.GetVersion() != "" || got.GetName() != "runtime" {
		t.Errorf("after %v: %v", took, got)
	}
}
