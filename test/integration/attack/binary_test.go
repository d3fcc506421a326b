package attack_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// ownBinary lets the container be attacked with a copy of the runtime, and returns a check that nobody has changed it,
// and that no attacker has a handle of this very file: he need only try to write to it again and again, be it through a
// read-only mount, to keep the host from executing it.
func ownBinary(t testing.TB, containers ...*container) (unchanged func()) {
	t.Helper()
	binary := testenv.Binary(t, "berth-runtime")
	copied := filepath.Join(testenv.ShortDir(t), "berth-runtime")
	copyFile(t, binary, copied)
	for _, c := range containers {
		c.Runtime = copied
	}
	want, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		got, err := os.ReadFile(copied)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("the runtime's binary has been changed (%v)", err)
		}
		var file unix.Stat_t
		if err := unix.Stat(copied, &file); err != nil {
			t.Fatal(err)
		}
		for _, c := range containers {
			if strings.Contains(c.attackerLog(), fmt.Sprintf("holds %d:%d\n", file.Dev, file.Ino)) {
				t.Error("the attacker has a handle of the runtime's binary")
			}
		}
	}
}

// selfExecutions are ways to make a runtime execute itself.
func (c *container) selfExecutions() [][]string {
	c.t.Helper()
	for _, name := range []string{"script", "bin/nested"} {
		line := "#!/proc/self/exe\n"
		if name == "bin/nested" {
			line = "#!/script\n"
		}
		if err := os.WriteFile(filepath.Join(c.Rootfs, name), []byte(line), 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	c.link("linked", "/proc/self/exe")
	return [][]string{{"/script"}, {"/proc/self/exe", "--version"}, {"/linked", "--version"}, {"/proc/thread-self/exe", "--version"}, {"nested"}, {"/proc/1/exe", "--version"}}
}

// TestRuntimeExecutesNothingOfItself is the first half of CVE-2019-5736: no program of an image is the runtime.
func TestRuntimeExecutesNothingOfItself(t *testing.T) {
	c := newContainer(t).capable("SYS_ADMIN")
	unchanged := ownBinary(t, c)
	for _, args := range c.selfExecutions() {
		c.Spec.Process.Args = args
		if r := c.run(); r.Status == 0 || strings.Contains(r.Stdout, "version") {
			t.Errorf("run of %v: %+v", args, r)
		}
	}
	c.Spec.Process.Args = []string{"sleep", "1000"}
	c.start()
	for _, args := range c.selfExecutions()[:5] { // the last would be sleep's
		if r := c.verb(append([]string{"exec", c.ID}, args...)...); r.Status == 0 || strings.Contains(r.Stdout, "version") {
			t.Errorf("exec of %v: %+v", args, r)
		}
	}
	unchanged()
}

// attacked starts the attacker of CVE-2019-5736 in a container and waits until it is at work.
func (c *container) attacked(how string) *container {
	c.t.Helper()
	log := filepath.Join(c.Bundle, "attacker.log")
	file, err := os.Create(log)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	c.attacker(how)
	c.writeConfig()
	create := c.command("create", "--bundle", c.Bundle, c.ID)
	create.Stdout, create.Stderr = file, file
	if err := create.Run(); err != nil {
		c.t.Fatalf("create: %v: %s", err, c.attackerLog())
	}
	c.must("start", c.ID)
	return c
}

// byReadOnlyMount lets the runtime be executed as our shim does it.
func (c *container) byReadOnlyMount() {
	c.t.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, c.Runtime, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.Handle = os.NewFile(uintptr(fd), c.Runtime)
	handle := c.Handle
	c.t.Cleanup(func() { _ = handle.Close() })
}

// wantMeetings checks that the attacker has seen processes come into its container: one that is dead or blind attacks nobody.
func (c *container) wantMeetings() {
	c.t.Helper()
	if !strings.Contains(c.attackerLog(), "met ") {
		c.t.Errorf("the attacker has met nobody: %s", c.attackerLog())
	}
}

func (c *container) attackerLog() string {
	content, err := os.ReadFile(filepath.Join(c.Bundle, "attacker.log"))
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// TestExecIntoAnAttacker is the second half of CVE-2019-5736: a process in the container takes a handle to the binary
// of every process that comes in.
func TestExecIntoAnAttacker(t *testing.T) {
	const byShim = "with SYS_PTRACE, runtime by a shim"
	for name, more := range map[string][]string{
		"": nil, "with SYS_ADMIN": {"SYS_ADMIN", "DAC_READ_SEARCH"}, "with SYS_PTRACE": {"SYS_PTRACE"}, byShim: {"SYS_PTRACE"},
	} {
		t.Run("attacker "+name, func(t *testing.T) {
			c := newContainer(t).capable(more...)
			unchanged := ownBinary(t, c)
			if name == byShim {
				c.byReadOnlyMount()
			}
			c.attacked("binary")
			for range rounds {
				c.must("exec", c.ID, "true")
			}
			c.verb("exec", c.ID, "/proc/self/exe", "--version")
			c.wantMeetings()
			unchanged()
		})
	}
}

// TestExecAfterAPrivilegedExec: the attacker may trace although the container's own process may not.
func TestExecAfterAPrivilegedExec(t *testing.T) {
	c := newContainer(t).capable()
	unchanged := ownBinary(t, c)
	c.attacker()
	c.Spec.Process.Args = []string{"sleep", "1000"}
	c.start()
	log, err := os.Create(filepath.Join(c.Bundle, "attacker.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	attack := c.command("exec", "--detach", "--cap", "CAP_SYS_PTRACE", c.ID, "/attacker", "binary")
	attack.Stdout, attack.Stderr = log, log
	if err := attack.Run(); err != nil {
		t.Fatalf("exec: %v: %s", err, c.attackerLog())
	}
	for range 5 * rounds {
		c.must("exec", c.ID, "true")
	}
	c.wantMeetings()
	unchanged()
}

// TestNeighbourInThePidNamespace: the attacker may trace in its own container, and another container joins its pid
// namespace.
func TestNeighbourInThePidNamespace(t *testing.T) {
	attacker, c := newContainer(t).capable("SYS_PTRACE"), newContainer(t, "true").capable()
	unchanged := ownBinary(t, attacker, c)
	attacker.attacked("binary")
	c.joins(attacker, specs.PIDNamespace)
	for range rounds {
		if r := c.run(); r.Status != 0 {
			t.Fatalf("%+v", r)
		}
	}
	unchanged()
	c.Spec.Process.Args = []string{"sleep", "1000"}
	c.start()
	for range rounds {
		c.must("exec", c.ID, "true")
	}
	attacker.wantMeetings()
	unchanged()
}

// TestExecOfTheSameUser: the root of an ordinary user's container is the user, whose binary this is, and what comes to it
// is a process of the same user.
func TestExecOfTheSameUser(t *testing.T) {
	c := newContainer(t).capable("SYS_PTRACE", "SYS_ADMIN", "DAC_READ_SEARCH")
	unchanged := ownBinary(t, c)
	for _, name := range []string{filepath.Dir(c.Runtime), c.Runtime} {
		if err := errors.Join(os.Chown(name, 1000, 1000), os.Chmod(name, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	c.rootless().attacked("binary")
	for range 5 * rounds {
		c.must("exec", c.ID, "true")
	}
	c.wantMeetings()
	unchanged()
}
