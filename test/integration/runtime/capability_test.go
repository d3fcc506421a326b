package runtime_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// capabilities runs a container that prints the sets of its own process.
func capabilities(t *testing.T, c *container) map[string]string {
	t.Helper()
	sets := map[string]string{}
	for line := range strings.Lines(c.shell("grep ^Cap /proc/self/status").output()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		sets[name] = strings.TrimSpace(value)
	}
	return sets
}

// ofHost returns the part of mask that this host lets anybody have.
func ofHost(t *testing.T, mask uint64) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var bounding uint64
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			if _, err := fmt.Sscanf(value, "%x", &bounding); err != nil {
				t.Fatal(err)
			}
		}
	}
	return fmt.Sprintf("%016x", mask&bounding)
}

func TestCapabilitySets(t *testing.T) {
	c := newContainer(t)
	c.Spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding:    []string{"CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"},
		Permitted:   []string{"CAP_CHOWN", "CAP_KILL"},
		Effective:   []string{"CAP_CHOWN"},
		Inheritable: []string{"CAP_KILL"},
		Ambient:     []string{"CAP_KILL"},
	}
	// A program that root executes gets what the bounding set allows, and so much the better for a user's.
	c.Spec.Process.User = specs.User{UID: 1000, GID: 1000}
	got := capabilities(t, c)
	for set, want := range map[string]uint64{"CapBnd": 1 | 1<<5 | 1<<21, "CapInh": 1 << 5, "CapAmb": 1 << 5, "CapPrm": 1 << 5, "CapEff": 1 << 5} {
		if want := ofHost(t, want); got[set] != want {
			t.Errorf("%s is %s, want %s", set, got[set], want)
		}
	}
}

func TestNoCapabilities(t *testing.T) {
	c := newContainer(t)
	c.Spec.Process.Capabilities = nil
	for set, value := range capabilities(t, c) {
		if value != "0000000000000000" {
			t.Errorf("%s is %s", set, value)
		}
	}
}

func TestUnknownCapability(t *testing.T) {
	c := newContainer(t)
	c.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_OF_THE_FUTURE"}}
	if got, want := capabilities(t, c)["CapBnd"], ofHost(t, 1); got != want {
		t.Errorf("the bounding set is %s, want %s", got, want)
	}
}

func TestCapabilityIsEnforced(t *testing.T) {
	script := "touch /tmp/file && chown 1 /tmp/file && echo done"
	c := newContainer(t).shell(script)
	c.Spec.Root.Readonly = false
	if r := c.run(); r.Status == 0 {
		t.Errorf("chown without CAP_CHOWN: %+v", r)
	}
	c = newContainer(t).shell(script)
	c.Spec.Root.Readonly = false
	chown := []string{"CAP_CHOWN"}
	c.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: chown, Effective: chown, Permitted: chown}
	if out := c.output(); out != "done\n" {
		t.Errorf("chown with CAP_CHOWN: %q", out)
	}
}
