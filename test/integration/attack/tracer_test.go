package attack_test

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestNewcomersAreNotTraced: a process that comes into the container has the user and the capabilities of those there
// already before it has its filter and no_new_privs, and whoever could trace it then would be rid of both.
func TestNewcomersAreNotTraced(t *testing.T) {
	for name, prepare := range map[string]func(c *container){
		"as root": func(*container) {},
		"as a user": func(c *container) {
			c.Spec.Process.Capabilities = &specs.LinuxCapabilities{}
			c.Spec.Process.User = specs.User{UID: 1000, GID: 1000}
		},
		"with SYS_ADMIN": func(c *container) { c.capable("SYS_ADMIN") },
		"with SYS_PTRACE in a user namespace": func(c *container) {
			c.capable("SYS_ADMIN", "SYS_PTRACE")
			c.inUserNamespace()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t).capable()
			prepare(c)
			c.Spec.Process.NoNewPrivileges = true
			c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"swapon"}, Action: specs.ActErrno}}}
			c.attacked("seize")
			for range 5 * rounds {
				c.must("exec", c.ID, "true")
			}
			log := c.attackerLog()
			for line := range strings.Lines(log) {
				if strings.Contains(line, "NoNewPrivs: 0") || strings.Contains(line, "Seccomp: 0") {
					t.Errorf("without its restrictions: %s", line)
				}
			}
			if !strings.Contains(log, "seized") { // of 50 it gets about 25, when they are what they are to be
				t.Errorf("the attacker has traced nobody: %s", log)
			}
		})
	}
}

// inUserNamespace gives the container users of its own, to whom the image belongs.
func (c *container) inUserNamespace() {
	c.t.Helper()
	const first, count = 100000, 65536
	c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: count}}
	c.Spec.Linux.UIDMappings, c.Spec.Linux.GIDMappings = ids, ids
	c.giveAway(first)
}
