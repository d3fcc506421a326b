package runtime_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// loadProfile gives the kernel an AppArmor profile that denies reading one file, until the test ends.
func loadProfile(t *testing.T, name, denied string) {
	t.Helper()
	if !testenv.LoadAppArmor(t, name, denied) {
		t.Skip("needs a kernel with AppArmor, as make test-vm has")
	}
}

func TestApparmor(t *testing.T) {
	loadProfile(t, "berth-test-one", "/secret-one")
	loadProfile(t, "berth-test-two", "/secret-two")
	c := newContainer(t, "sleep", "1000")
	for _, name := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(c.Rootfs, "secret-"+name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const look = "cat /proc/self/attr/current; for s in one two; do cat /secret-$s 2>/dev/null; done; :"
	c.Spec.Process.ApparmorProfile = "berth-test-one"
	c.start()
	plain := *c.Spec.Process
	plain.ApparmorProfile, plain.Args = "", []string{"sh", "-c", look}
	other := plain
	other.ApparmorProfile = "berth-test-two"
	writeJSON(t, filepath.Join(c.Bundle, "plain.json"), plain)
	writeJSON(t, filepath.Join(c.Bundle, "other.json"), other)
	for want, args := range map[string][]string{
		"berth-test-one (enforce)\ntwo":          {"exec", c.ID, "sh", "-c", look},
		"berth-test-two (enforce)\none":          {"exec", "--apparmor", "berth-test-two", c.ID, "sh", "-c", look},
		"unconfined\nonetwo":                     {"exec", "--apparmor", "unconfined", c.ID, "sh", "-c", look},
		"berth-test-one (enforce)\ntwo" + "\x00": {"exec", "--process", filepath.Join(c.Bundle, "plain.json"), c.ID}, // it has none: the container's
		"berth-test-two (enforce)\none" + "\x00": {"exec", "--process", filepath.Join(c.Bundle, "other.json"), c.ID},
	} {
		if r := c.verb(args...); r.Status != 0 || r.Stdout != strings.TrimSuffix(want, "\x00") {
			t.Errorf("%v: %+v, want %q", args[1:], r, want)
		}
	}
	if r := c.verb("exec", "--apparmor", "berth-no-such", c.ID, "true"); r.Status == 0 || !strings.Contains(r.Stderr, "process.apparmorProfile") {
		t.Errorf("a profile that is not loaded: %+v", r)
	}
}

// TestApparmorOfTheFirstProcess: the profile is in effect for what run executes, also without privileges to change it.
func TestApparmorOfTheFirstProcess(t *testing.T) {
	loadProfile(t, "berth-test-first", "/etc/passwd")
	for name, change := range map[string]func(p *specs.Process){
		"root":              func(*specs.Process) {},
		"no new privileges": func(p *specs.Process) { p.NoNewPrivileges = true },
		"a user":            func(p *specs.Process) { p.User = specs.User{UID: 1000, GID: 1000}; p.Capabilities = nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t).shell("cat /proc/self/attr/current; cat /etc/passwd 2>/dev/null || echo denied")
			c.Spec.Process.ApparmorProfile = "berth-test-first"
			change(c.Spec.Process)
			wantEqual(t, c.output(), "berth-test-first (enforce)\ndenied\n")
		})
	}
	c := newContainer(t, "true")
	c.Spec.Process.ApparmorProfile = "berth-no-such"
	c.refused("process.apparmorProfile")
}
