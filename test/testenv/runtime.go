package testenv

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Runtime returns the OCI runtime under test: ours, or what BERTH_TEST_RUNTIME names, to see what a peer does.
func Runtime(t testing.TB) string {
	t.Helper()
	if name := os.Getenv("BERTH_TEST_RUNTIME"); name != "" {
		return Peer(t, name)
	}
	return Binary(t, "berth-runtime")
}

// ExampleSpec returns the configuration that the runtime under test gives to start from.
func ExampleSpec(t testing.TB) *specs.Spec {
	t.Helper()
	dir := t.TempDir()
	if r := Execute(t, exec.Command(Runtime(t), "spec", "--bundle", dir)); r.Status != 0 {
		t.Fatalf("spec: %+v", r)
	}
	content, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(content, spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

// Outcome is what a command came to.
type Outcome struct {
	Stdout, Stderr string
	Status         int
}

// Execute runs a command to its end, which is a failure of the test only if it can't be executed.
func Execute(t testing.TB, command *exec.Cmd) Outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", command.Args, err)
	}
	return Outcome{stdout.String(), stderr.String(), command.ProcessState.ExitCode()}
}

// WaitFor waits until something that has no event of its own has become so.
func WaitFor(t testing.TB, what string, so func() bool) {
	t.Helper()
	limit := Patience(10 * time.Second)
	for deadline := time.Now().Add(limit); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", limit, what)
		}
	}
}
