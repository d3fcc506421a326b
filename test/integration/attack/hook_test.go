package attack_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hook makes the container have a program of its image as a hook that comes before its process.
func (c *container) hook(args ...string) *container {
	c.Spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: args[0], Args: args}}}
	return c
}

// TestHookOfTheImage: a startContainer hook is a program of the image, whatever the configuration takes it for. It must
// not be able to do what the container's process is not.
func TestHookOfTheImage(t *testing.T) {
	restrictions := regexp.MustCompile(`(?m)^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):.*$|^\d+:.*$`)
	const look = "cat /proc/self/status /proc/self/cgroup"
	for name, uid := range map[string]uint32{"root": 0, "user": 1000} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t).capable().shell(look).hook("/bin/sh", "-c", "("+look+") > /tmp/hook")
			c.Spec.Process.User = specs.User{UID: uid, GID: uid, AdditionalGids: []uint32{7}}
			c.Spec.Process.NoNewPrivileges = true
			c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"swapon"}, Action: specs.ActErrno}}}
			if err := os.Chmod(filepath.Join(c.Rootfs, "tmp"), 0o777); err != nil {
				t.Fatal(err)
			}
			r := c.run()
			hook, err := os.ReadFile(filepath.Join(c.Rootfs, "tmp/hook"))
			if err != nil || r.Status != 0 {
				t.Fatalf("%v: %+v", err, r)
			}
			got, want := restrictions.FindAllString(string(hook), -1), restrictions.FindAllString(r.Stdout, -1)
			if len(want) < 11 || !slices.Equal(got, want) {
				t.Errorf("the hook has\n%s\nand the process\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// TestHookIsNotTheRuntime is CVE-2019-5736 by a hook: its process comes from the runtime.
func TestHookIsNotTheRuntime(t *testing.T) {
	for _, more := range [][]string{nil, {"SYS_PTRACE", "SYS_ADMIN"}} {
		c := newContainer(t, "true").capable(more...)
		unchanged := ownBinary(t, c)
		for _, args := range c.selfExecutions()[:4] {
			if args[0] == "nested" {
				continue
			}
			c.hook(args...)
			if r := c.run(); r.Status == 0 || strings.Contains(r.Stdout, "version") {
				t.Errorf("run with hook %v: %+v", args, r)
			}
			c.create()
			if r := c.verb("start", c.ID); r.Status == 0 || strings.Contains(r.Stdout, "version") {
				t.Errorf("start with hook %v: %+v", args, r)
			}
			c.must("delete", "--force", c.ID)
		}
		unchanged()
	}
}
