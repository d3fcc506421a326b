package process

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/capability"
)

func TestCandidates(t *testing.T) {
	for _, test := range []struct{ name, env, want string }{
		{"sh", "PATH=/bin:/usr/bin", "/bin/sh /usr/bin/sh"},
		{"sh", "PATH=:/bin:", "/bin/sh"},
		{"sh", "", "/usr/local/sbin/sh /usr/local/bin/sh /usr/sbin/sh /usr/bin/sh /sbin/sh /bin/sh"},
	} {
		c := Config{Process: &specs.Process{Env: []string{"PATH=/first", test.env}}}
		if test.env == "" {
			c.Process.Env = nil
		}
		if got := strings.Join(c.candidates(test.name), " "); got != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

func TestEnvironment(t *testing.T) {
	for _, test := range []struct {
		env  string
		bare bool
		want string
	}{
		{"A=1 B=2 A=3", true, "B=2 A=3"},
		{"A=1 AB=2 A=3 AB=4 C A=5 C", true, "AB=4 A=5 C"},
		{"A=1 HOME= B=2", false, "A=1 B=2 HOME="},
		{"A=1 B=1", true, "A=1 B=1"},
		{"HOME=/x B=1", false, "HOME=/x B=1"},
		{"", false, "HOME="},
		{"A=1 A=2 A=3 B=1 A=4", true, "B=1 A=4"},
	} {
		c := Config{Process: &specs.Process{Env: strings.Fields(test.env)}, Bare: test.bare}
		if got := strings.Join(c.environment(), " "); got != test.want {
			t.Errorf("%q: %q, want %q", test.env, got, test.want)
		}
	}
}

func TestExecutionFailedNamesTheProgram(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.EACCES: `exec: "x": permission denied`, unix.ENOEXEC: `exec: "x": exec format error`, unix.EISDIR: `exec: "x": is a directory`,
		unix.ENOENT: `exec: "x": no such file or directory`,
	} {
		if err := ExecutionFailed("x", errno); !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

func TestAmbientNeedsTheOtherSets(t *testing.T) {
	c := Config{Masks: capability.Masks{Ambient: 0b1111, Permitted: 0b0110, Inheritable: 0b0101}}
	if got := c.ambient(); got != 0b0100 {
		t.Errorf("ambient set %b", got)
	}
}

func TestNodeMask(t *testing.T) {
	mask, err := nodeMask("0-2,5,64")
	if err != nil || mask[0] != 0b100111 || mask[1] != 1 {
		t.Errorf("%b, %v", mask[:2], err)
	}
	for _, bad := range []string{"x", "2-1", "1-", "-1", "1024", ","} {
		if _, err := nodeMask(bad); err == nil {
			t.Errorf("%q passes for a list of nodes", bad)
		}
	}
}
