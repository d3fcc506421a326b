package attack_test

import (
	"strings"
	"testing"
)

// TestProcOfTheHostBelow: where the root is moved over the host's instead of being exchanged for it, the host's /proc and
// /sys lie below. To whom such a file system is visible in full the kernel lets mount another one, which nothing masks.
func TestProcOfTheHostBelow(t *testing.T) {
	for kind, file := range map[string]string{"proc": "sys/kernel/core_pattern", "sysfs": "firmware"} {
		script := "mkdir /over; mount -t " + kind + " none /over 2>/dev/null; ls -d /over/" + file
		c := newContainer(t, "unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--fork", "sh", "-c", script).capable()
		for _, mapped := range []bool{false, true} {
			if mapped {
				c.inUserNamespace() // where the host's mounts can't be taken away
			}
			c.writeConfig()
			r := c.verb("run", "--bundle", c.Bundle, "--no-pivot", c.ID)
			if strings.Contains(r.Stdout, file) || !strings.Contains(r.Stderr, "No such file") {
				t.Errorf("%s, mapped %v: %+v", kind, mapped, r)
			}
		}
	}
}
