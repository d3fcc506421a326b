package runtime_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// asUser makes a command that of an ordinary user.
func asUser(command *exec.Cmd, dir string) *exec.Cmd {
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	command.Env = []string{"PATH=/usr/bin:/bin", "XDG_RUNTIME_DIR=" + dir}
	command.Dir = dir
	return command
}

func TestRootless(t *testing.T) {
	c := newContainer(t)
	if output, err := exec.Command("chown", "-R", "1000:1000", c.Rootfs, filepath.Dir(c.Rootfs), c.Bundle).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	binary := filepath.Join(c.Bundle, "runtime") // the checkout may be root's alone
	content, err := os.ReadFile(runtimeBinary(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, content, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) outcome {
		return execute(t, asUser(exec.Command(binary, args...), c.Bundle))
	}
	if r := run("spec", "--rootless"); r.Status != 0 {
		t.Fatalf("spec --rootless: %+v", r)
	}
	config := filepath.Join(c.Bundle, "config.json")
	content, err = os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(content, &spec); err != nil {
		t.Fatal(err)
	}
	spec.Root.Path = c.Rootfs
	spec.Process.Terminal = false
	spec.Process.Args = []string{"sh", "-c", "id -u; tr -s ' ' < /proc/self/uid_map; echo x > /dev/null && echo devices; touch /new 2>/dev/null || echo read-only"}
	writeJSON(t, config, spec)
	r := run("run", c.ID)
	if r.Status != 0 {
		t.Fatalf("run: %+v", r)
	}
	wantEqual(t, r.Stdout, "0\n 0 1000 1\ndevices\nread-only\n")
	if left, _ := os.ReadDir(filepath.Join(c.Bundle, "berth-runtime")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	if r := run("list"); r.Status != 0 || strings.Contains(r.Stdout, c.ID) {
		t.Errorf("list: %+v", r)
	}
}
