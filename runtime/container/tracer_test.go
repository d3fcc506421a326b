package container

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestTracersWaitForTheUntraced: a process that may trace others does not start while another one, of which it could not
// know, is in the container unprotected.
func TestTracersWaitForTheUntraced(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, stateFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
	command := func() *Container { return &Container{State: State{ID: "id"}, dir: dir, spec: spec} }
	plain, tracer := command(), command()
	if traced, err := plain.Traced(spec.Process); traced || err != nil {
		t.Fatalf("without a tracer: %v, %v", traced, err)
	}
	noted := make(chan error, 1)
	go func() { noted <- tracer.noteTracer(spec, AnyProcess()) }()
	deadline := time.Now().Add(time.Minute)
	for seen := 0; seen < 1000; { // so often that one that does not wait has long returned
		other := command()
		traced, err := other.Traced(spec.Process)
		other.Close()
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("with a tracer: %v, %v", traced, err)
		}
		if traced {
			seen++
		}
	}
	select {
	case err := <-noted:
		t.Fatalf("the tracer has not waited: %v", err)
	default:
	}
	plain.Close()
	if err := <-noted; err != nil {
		t.Error(err)
	}
}
