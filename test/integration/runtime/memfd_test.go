package runtime_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// TestWithoutExecutableMemory: vm.memfd_noexec, which a pid namespace has of its own, makes files in memory that can't be
// executed what a program gets by default (1), or all that it gets (2). The runtime needs one that can be, for what waits
// in the container in its place, and where its binary is behind a mount of its own another one for itself.
func TestWithoutExecutableMemory(t *testing.T) {
	if _, err := os.Stat("/proc/sys/vm/memfd_noexec"); err != nil {
		t.Skip("needs a kernel with vm.memfd_noexec (Linux 6.3)")
	}
	for _, level := range []string{"1", "2"} {
		for name, change := range map[string]func(c *container) (prelude string){
			"plain": func(*container) string { return "" },
			"hooks": func(c *container) string {
				c.Spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/true"}}, StartContainer: []specs.Hook{{Path: "/bin/true"}}}
				return ""
			},
			"user namespace": func(c *container) string { mapUsers(t, c); return "" },
			"traced":         func(c *container) string { privileged(c); return "" },
			"traced, behind a mount": func(c *container) string {
				privileged(c)
				path := filepath.Join(c.Bundle, "runtime")
				if err := os.WriteFile(path, nil, 0o755); err != nil {
					t.Fatal(err)
				}
				return fmt.Sprintf("mount --bind %s %s; runtime=%[2]s; ", testenv.Runtime(t), path)
			},
		} {
			t.Run(level+" "+name, func(t *testing.T) {
				c := newContainer(t, "echo", "hello")
				prelude := change(c)
				c.writeConfig()
				script := fmt.Sprintf("set -e; echo %s > /proc/sys/vm/memfd_noexec; runtime=%s; %s", level, testenv.Runtime(t), prelude)
				in := func(verbs string) testenv.Outcome {
					return testenv.Execute(t, exec.Command("unshare", "--pid", "--mount-proc", "--fork", "sh", "-c", script+verbs))
				}
				flags := fmt.Sprintf("$runtime --root %s ", c.State)
				if r := in(flags + "run --bundle " + c.Bundle + " " + c.ID); r.Status != 0 || r.Stdout != "hello\n" {
					t.Fatalf("run: %+v", r)
				}
				c.Spec.Process.Args = []string{"sleep", "1000"}
				c.writeConfig()
				r := in(strings.Join([]string{
					flags + "run --detach --bundle " + c.Bundle + " " + c.ID + " >/dev/null 2>&1 </dev/null", flags + "exec " + c.ID + " echo hello",
					flags + "delete --force " + c.ID,
				}, "; "))
				if r.Status != 0 || r.Stdout != "hello\n" {
					t.Errorf("exec: %+v", r)
				}
			})
		}
	}
}
