package checkpoint_test

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// What the configuration says of the process holds after a restore too.
func TestProcessSettings(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "sleep 1000 & until pidof sleep >/dev/null; do :; done; "+echo)
	c.useHostPrograms()
	umask, score := uint32(0o027), 321
	c.Spec.Process.User = specs.User{AdditionalGids: []uint32{9, 10}, Umask: &umask}
	// criu needs it to see the limits of other users' processes.
	if ok, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0); err == nil && ok == 1 {
		c.Spec.Process.User.UID, c.Spec.Process.User.GID = 7, 8
	}
	c.Spec.Process.OOMScoreAdj = &score
	c.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 99, Hard: 100}}
	c.Spec.Process.Cwd = "/tmp"
	c.Spec.Process.Env = append(c.Spec.Process.Env, "KEPT=yes")
	c.Spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
	c.Spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE, Priority: 0}
	c.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	c.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
	c.run().ask("a", "a 1")
	const look = `for p in 1 $(pidof sleep); do grep -E 'Uid|Gid|Groups|Umask|NoNewPrivs|Sig(Ign|Blk|Cgt)' /proc/$p/status; cat /proc/$p/oom_score_adj /proc/$p/personality; grep stack /proc/$p/numa_maps | cut -d" " -f2; readlink /proc/$p/cwd; tr '\0' '\n' </proc/$p/environ; ` +
		`grep open /proc/$p/limits; chrt -p $p | sed s/^.*current//; ionice -p $p; nice; done; hostname; cat /proc/sys/kernel/domainname`
	before := c.must("exec", "--user", "0", "--cap", "CAP_SYS_PTRACE", c.ID, "sh", "-c", look)
	if _, err := os.Stat("/proc/self/numa_maps"); err == nil && strings.Count(before, "bind:0") != 2 {
		t.Errorf("no policy of memory: %s", before)
	}
	c.checkpoint()
	c.restore().ask("b", "b 2")
	if after := c.must("exec", "--user", "0", "--cap", "CAP_SYS_PTRACE", c.ID, "sh", "-c", look); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
